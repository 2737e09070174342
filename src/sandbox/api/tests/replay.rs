//! Replays recordings of a real API server. The whole set, with controllers, is replayed in `tests/`; here are those
//! that the server answers alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Server;

/// Scenarios in which a controller must act.
const NEED_CONTROLLERS: [&str; 12] = [
    "cronjob-fires",
    "endpoints",
    "gc-background",
    "gc-dangling-owner",
    "gc-foreground",
    "job",
    "namespace-delete",
    "pod-lifecycle",
    "statefulset-ondelete",
    "statefulset-ordered",
    "statefulset-parallel",
    "statefulset-scale-down",
];

#[derive(Default)]
struct Scenario {
    saved: BTreeMap<String, Value>,
    watches: BTreeMap<String, JoinHandle<Vec<Value>>>,
}

impl Scenario {
    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.saved {
            let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&format!("\"${{{name}:int}}\""), &plain);
            text = text.replace(&format!("${{{name}}}"), &plain);
        }
        text
    }

    fn filled(&self, value: &Value) -> Value {
        serde_json::from_str(&self.fill(&value.to_string())).unwrap()
    }
}

fn mismatch(answer: &Value, expect: &Value) -> Option<String> {
    expect.as_object()?.iter().find_map(|(pointer, wanted)| {
        let found = answer.pointer(pointer);
        let fits = if wanted == "$absent" { found.is_none() } else { found == Some(wanted) };
        (!fits).then(|| format!("{pointer} is {} but should be {wanted}", found.unwrap_or(&json!("$absent"))))
    })
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| json!({"$raw": text})))
}

async fn run_step(server: &Server, scenario: &mut Scenario, step: &Value) -> Result<(), String> {
    let seconds = || Duration::from_secs_f64(step["seconds"].as_f64().unwrap());
    if let Some(pause) = step["sleep"].as_f64() {
        sleep(Duration::from_secs_f64(pause)).await;
    } else if let Some(path) = step["watch"].as_str() {
        let count = usize::try_from(step["count"].as_u64().unwrap()).unwrap();
        let request = server.request("GET", &scenario.fill(path));
        let response = request.send().await.map_err(|error| error.to_string())?;
        let name = step["name"].as_str().unwrap().to_owned();
        scenario.watches.insert(name, tokio::spawn(collect(response, count, seconds())));
    } else if let Some(name) = step["collect"].as_str() {
        let events = scenario.watches.remove(name).unwrap().await.unwrap();
        let paths: Vec<&str> = step["paths"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let cut = |event: &Value| -> Value {
            let field =
                |path: &&str| ((*path).to_owned(), event.pointer(path).cloned().unwrap_or(json!("$absent")));
            paths.iter().map(field).collect()
        };
        let events: Value = events.iter().map(cut).collect();
        let wanted = scenario.filled(&step["expect"]);
        if events != wanted {
            return Err(format!("events are\n  {events}\nbut should be\n  {wanted}"));
        }
    } else if let Some(path) = step["eventually"].as_str() {
        let end = Instant::now() + seconds();
        loop {
            let (status, answer) =
                read(server.request("GET", &scenario.fill(path)).send().await.unwrap()).await;
            let problem = match step["code"].as_u64() {
                Some(code) => (u64::from(status) != code).then(|| format!("status is {status}")),
                None => mismatch(&answer, &scenario.filled(&step["value"])),
            };
            let Some(problem) = problem else { break };
            if Instant::now() > end {
                return Err(problem);
            }
            sleep(Duration::from_millis(20)).await;
        }
    } else {
        return request_step(server, scenario, step).await;
    }
    Ok(())
}

async fn request_step(server: &Server, scenario: &mut Scenario, step: &Value) -> Result<(), String> {
    let path = scenario.fill(step["path"].as_str().unwrap());
    let mut request = server.request(step["method"].as_str().unwrap(), &path);
    if let Some(body) = step.get("body") {
        let body = body.as_str().map_or_else(|| scenario.fill(&body.to_string()), str::to_owned);
        let kind = step["type"].as_str().unwrap_or("application/json");
        request = request.body(body).header("content-type", kind);
    }
    if let Some(accept) = step["accept"].as_str() {
        request = request.header("accept", accept);
    }
    let (status, answer) = read(request.send().await.unwrap()).await;
    if u64::from(status) != step["status"].as_u64().unwrap() {
        return Err(format!("status is {status} but should be {}: {answer}", step["status"]));
    }
    if let Some(problem) = mismatch(&answer, &scenario.filled(&step["expect"])) {
        return Err(format!("{problem}: {answer}"));
    }
    for pointer in step["present"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if answer.pointer(pointer).is_none() {
            return Err(format!("{pointer} is missing: {answer}"));
        }
    }
    for (name, pointer) in step["save"].as_object().into_iter().flatten() {
        let value = answer.pointer(pointer.as_str().unwrap()).cloned().unwrap_or_default();
        scenario.saved.insert(name.clone(), value);
    }
    Ok(())
}

async fn collect(mut response: reqwest::Response, count: usize, limit: Duration) -> Vec<Value> {
    let mut events = Vec::new();
    let end = Instant::now() + limit;
    while events.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(Ok(Some(chunk))) = timeout(left, response.chunk()).await else { break };
        let event: Value = serde_json::from_slice(&chunk).expect("one document in each chunk");
        let announced = event.pointer("/object/metadata/annotations/k8s.io~1initial-events-end").is_some();
        if event["type"] != "BOOKMARK" || announced {
            events.push(event);
        }
    }
    events
}

async fn run(server: &Server, number: usize, recording: &Value) -> Result<(), String> {
    let namespace = format!("ns-{number}");
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    let created = server.request("POST", "/api/v1/namespaces").json(&body).send().await.unwrap();
    assert_eq!(created.status(), 201);
    let mut scenario = Scenario::default();
    scenario.saved.insert("ns".into(), json!(namespace));
    scenario.saved.insert("crdgroup".into(), json!(format!("t{number}.example.com")));
    for (index, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        run_step(server, &mut scenario, step).await.map_err(|problem| {
            format!("step {} ({} {}): {problem}", index + 1, step["method"], step["path"])
        })?;
    }
    Ok(())
}

#[tokio::test]
async fn the_server_answers_as_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut failed = Vec::new();
    let mut passed = 0;
    for (number, path) in names.iter().enumerate() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_none_or(|kind| kind != "json") || NEED_CONTROLLERS.contains(&name) {
            continue;
        }
        let recording: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        match run(&server, number, &recording).await {
            Ok(()) => {
                println!("ok   {name}");
                passed += 1;
            }
            Err(problem) => {
                println!("FAIL {name}: {problem}");
                failed.push(name.to_owned());
            }
        }
    }
    server.stop().await;
    assert!(failed.is_empty() && passed >= 30, "{passed} passed, failed: {failed:?}");
}
