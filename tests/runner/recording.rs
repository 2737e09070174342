//! Recordings of what a real Kubernetes API server answers, and their replay. `tests/conformance` holds the data.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

/// One scenario: steps that run in order in a namespace of its own.
#[derive(Deserialize)]
pub struct Recording {
    pub name: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Call {
        method: String,
        path: String,
        body: Option<Value>,
        #[serde(rename = "type")]
        content_type: Option<String>,
        accept: Option<String>,
        status: u16,
        #[serde(default)]
        expect: Map<String, Value>,
        #[serde(default)]
        present: Vec<String>,
        #[serde(default)]
        save: BTreeMap<String, String>,
    },
    Watch {
        watch: String,
        name: String,
        count: usize,
        seconds: f64,
    },
    Collect {
        collect: String,
        paths: Vec<String>,
        expect: Vec<Value>,
    },
    Eventually {
        eventually: String,
        value: Option<Map<String, Value>>,
        code: Option<u16>,
        seconds: f64,
    },
    Sleep {
        sleep: f64,
    },
}

/// Where to replay, and as whom.
#[derive(Clone)]
pub struct Target {
    pub http: reqwest::Client,
    pub url: String,
    pub token: String,
}

struct Answer {
    status: u16,
    body: Value,
}

/// A replay under way.
struct Replay<'a> {
    target: &'a Target,
    values: BTreeMap<String, Value>,
    watches: BTreeMap<String, JoinHandle<Result<Vec<Value>, String>>>,
}

impl Recording {
    /// Replays it; the error says which step differed and how.
    pub async fn replay(&self, target: &Target) -> Result<(), String> {
        let id = ulid::Ulid::new().to_string().to_lowercase();
        let ns = format!("t-{id}");
        let values = BTreeMap::from([
            ("ns".into(), json!(ns)),
            ("crdgroup".into(), json!(format!("t{}.example.com", &id[16..]))),
        ]);
        let mut replay = Replay { target, values, watches: BTreeMap::new() };
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": ns } });
        let made = replay.call("POST", "/api/v1/namespaces", Some(&namespace), None, None).await?;
        if made.status != 201 {
            return Err(format!("namespace: {} {}", made.status, made.body));
        }
        for (index, step) in self.steps.iter().enumerate() {
            replay.step(step).await.map_err(|problem| format!("step {index}: {problem}"))?;
        }
        Ok(())
    }
}

impl Replay<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Call { method, path, body, content_type, accept, status, expect, present, save } => {
                let body = body.as_ref().map(|body| self.fill(body));
                let path = self.fill_text(path);
                let answer = self
                    .call(method, &path, body.as_ref(), content_type.as_deref(), accept.as_deref())
                    .await?;
                let context = |what: String| format!("{method} {path}: {what}\n  answer: {}", answer.body);
                if answer.status != *status {
                    return Err(context(format!("status {} instead of {status}", answer.status)));
                }
                self.compare(&answer.body, expect).map_err(context)?;
                if let Some(missing) = present.iter().find(|pointer| answer.body.pointer(pointer).is_none()) {
                    return Err(context(format!("{missing} is missing")));
                }
                for (name, pointer) in save {
                    let value = answer
                        .body
                        .pointer(pointer)
                        .cloned()
                        .ok_or_else(|| context(format!("no {pointer}")))?;
                    self.values.insert(name.clone(), value);
                }
                Ok(())
            }
            Step::Watch { watch, name, count, seconds } => {
                let stream =
                    self.request("GET", &self.fill_text(watch)).send().await.map_err(|e| e.to_string())?;
                let task = tokio::spawn(collect(stream, *count, Duration::from_secs_f64(*seconds)));
                self.watches.insert(name.clone(), task);
                Ok(())
            }
            Step::Collect { collect, paths, expect } => {
                let task = self.watches.remove(collect).ok_or("no such watch")?;
                let events = task.await.map_err(|e| e.to_string())??;
                let seen: Vec<Value> = events.iter().map(|event| cut(event, paths)).collect();
                let expected: Vec<Value> = expect.iter().map(|event| self.fill(event)).collect();
                if seen == expected {
                    Ok(())
                } else {
                    Err(format!("watched\n  {}\n instead of\n  {}", json!(seen), json!(expected)))
                }
            }
            Step::Eventually { eventually, value, code, seconds } => {
                self.eventually(&self.fill_text(eventually), value.as_ref(), *code, *seconds).await
            }
            Step::Sleep { sleep } => {
                tokio::time::sleep(Duration::from_secs_f64(*sleep)).await;
                Ok(())
            }
        }
    }

    async fn eventually(
        &self,
        path: &str,
        value: Option<&Map<String, Value>>,
        code: Option<u16>,
        seconds: f64,
    ) -> Result<(), String> {
        // The recording's bound is a real cluster's; a busy machine gets more before it counts as never.
        let deadline = Instant::now() + Duration::from_secs_f64(seconds * 2.0 + 20.0);
        loop {
            let answer = self.call("GET", path, None, None, None).await?;
            let problem = match (value, code) {
                (_, Some(code)) if answer.status != code => {
                    Some(format!("status {} instead of {code}", answer.status))
                }
                (Some(value), _) => self.compare(&answer.body, value).err(),
                _ => None,
            };
            match problem {
                None => return Ok(()),
                Some(problem) if Instant::now() > deadline => {
                    return Err(format!("GET {path}: never {problem}\n  answer: {}", answer.body));
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.target.http.request(method, format!("{}{path}", self.target.url)).bearer_auth(&self.target.token)
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        content_type: Option<&str>,
        accept: Option<&str>,
    ) -> Result<Answer, String> {
        let mut request = self.request(method, path).header("accept", accept.unwrap_or("application/json"));
        if let Some(body) = body {
            let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
            request = request.header("content-type", content_type.unwrap_or("application/json")).body(text);
        }
        let response = request.send().await.map_err(|e| format!("{method} {path}: {e}"))?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|e| e.to_string())?;
        let body = serde_json::from_str(&text).unwrap_or_else(|_| json!({ "$raw": text }));
        Ok(Answer { status, body })
    }

    fn compare(&self, body: &Value, expect: &Map<String, Value>) -> Result<(), String> {
        for (pointer, expected) in expect {
            let expected = self.fill(expected);
            let found = body.pointer(pointer);
            let same = if expected == "$absent" { found.is_none() } else { found == Some(&expected) };
            if !same {
                let found = found.map_or_else(|| "absent".to_owned(), Value::to_string);
                return Err(format!("{pointer} is {found} instead of {expected}"));
            }
        }
        Ok(())
    }

    /// The value with `${name}` and `${name:int}` replaced.
    fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                let whole = text.strip_prefix("${").and_then(|t| t.strip_suffix(":int}"));
                match whole.and_then(|name| self.values.get(name)) {
                    Some(Value::String(number)) => number.parse::<i64>().map_or(Value::Null, Value::from),
                    Some(number) => number.clone(),
                    None => Value::String(self.fill_text(text)),
                }
            }
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(map) => map.iter().map(|(k, v)| (self.fill_text(k), self.fill(v))).collect(),
            other => other.clone(),
        }
    }

    fn fill_text(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (name, value)| {
            let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.replace(&format!("${{{name}}}"), &plain).replace(&format!("${{{name}:int}}"), &plain)
        })
    }
}

/// The event cut down to those pointers.
fn cut(event: &Value, paths: &[String]) -> Value {
    paths
        .iter()
        .map(|path| (path.clone(), event.pointer(path).cloned().unwrap_or(json!("$absent"))))
        .collect()
}

/// What a watch sends, until `count` events or `limit` have passed.
async fn collect(response: reqwest::Response, count: usize, limit: Duration) -> Result<Vec<Value>, String> {
    if !response.status().is_success() {
        return Err(format!("watch: {}", response.status()));
    }
    let mut events = Vec::new();
    let mut buffer = Vec::new();
    let mut stream = response.bytes_stream();
    let deadline = tokio::time::Instant::now() + limit;
    while events.len() < count {
        let Ok(Some(chunk)) = tokio::time::timeout_at(deadline, stream.next()).await else { break };
        buffer.extend_from_slice(&chunk.map_err(|e| e.to_string())?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).map_err(|e| e.to_string())?;
            let ends_initial =
                event.pointer("/object/metadata/annotations/k8s.io~1initial-events-end").is_some();
            if event["type"] != "BOOKMARK" || ends_initial {
                events.push(event);
            }
        }
    }
    Ok(events)
}
