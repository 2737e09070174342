//! The whole sandbox killed under write load: what was acknowledged must be there, however often.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::support::{Answer, Sandbox, dbctl, eventually};

/// Clients that write at the same time, each its own objects.
const WRITERS: usize = 12;
/// Objects of each.
const OBJECTS: usize = 5;

/// What a writer was last told about an object.
#[derive(Clone, Debug)]
struct Told {
    version: u64,
    /// What it holds; none where it is deleted.
    value: Option<u64>,
    /// A write whose answer never came: what it would have left.
    under_way: Option<Option<u64>>,
}

type Ledger = Arc<Mutex<HashMap<String, Told>>>;

fn map(name: &str, value: u64) -> ConfigMap {
    // Its second half says the same as its first: half an object would be seen.
    let data = json!({"value": value.to_string(), "filling": "x".repeat(2000), "z": value.to_string()});
    serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap()
}

fn version(object: &ConfigMap) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

fn value(object: &ConfigMap) -> u64 {
    let data = object.data.as_ref().unwrap();
    assert_eq!(data["value"], data["z"], "half an object");
    data["value"].parse().unwrap()
}

/// Creates, replaces, patches and deletes until the server is gone.
async fn write_until_it_dies(client: Client, writer: usize, ledger: Ledger, stop: Arc<AtomicBool>) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("load-{writer}-{}", round % OBJECTS);
        let told = ledger.lock().unwrap().get(&name).cloned();
        let number = told.as_ref().map_or(0, |told| told.version) + 1;
        let is_there = told.as_ref().is_some_and(|told| told.value.is_some());
        let after = (!is_there || round % 7 != 0).then_some(number);
        if let Some(told) = ledger.lock().unwrap().get_mut(&name) {
            told.under_way = Some(after);
        } else {
            let fresh = Told { version: 0, value: None, under_way: Some(after) };
            ledger.lock().unwrap().insert(name.clone(), fresh);
        }
        let result = match (is_there, after) {
            (false, _) => {
                maps.create(&PostParams::default(), &map(&name, number)).await.map(|made| version(&made))
            }
            (true, None) => maps.delete(&name, &DeleteParams::default()).await.map(|_| 0),
            (true, Some(_)) if round % 2 == 0 => {
                let patch = Patch::Merge(json!({"data": map(&name, number).data}));
                maps.patch(&name, &PatchParams::default(), &patch).await.map(|made| version(&made))
            }
            (true, Some(_)) => {
                let mut next = map(&name, number);
                next.metadata.resource_version = told.as_ref().map(|told| told.version.to_string());
                maps.replace(&name, &PostParams::default(), &next).await.map(|made| version(&made))
            }
        };
        match result {
            Ok(version) => {
                let mut ledger = ledger.lock().unwrap();
                let last = ledger.get(&name).map_or(0, |told| told.version);
                ledger.insert(name, Told { version: version.max(last), value: after, under_way: None });
            }
            // Refused is not torn: the server lives, and says that the ledger is wrong.
            Err(kube::Error::Api(status)) if status.code < 500 => panic!("{name}: {status:?}, {told:?}"),
            Err(_) => return,
        }
    }
}

/// Every object that was acknowledged must be there, or what a write without an answer made of it.
async fn check(client: &Client, ledger: &Ledger, about: &str) -> u64 {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let list = maps.list(&ListParams::default()).await.unwrap();
    let at: u64 = list.metadata.resource_version.as_ref().unwrap().parse().unwrap();
    let found: HashMap<String, ConfigMap> =
        list.items.into_iter().map(|object| (object.name_any(), object)).collect();
    let mut ledger = ledger.lock().unwrap();
    for (name, told) in ledger.iter_mut() {
        let object = found.get(name);
        let holds = object.map(value);
        let about = format!("{about}: {name}: told {told:?}, found {holds:?} at {:?}", object.map(version));
        assert!(at >= told.version, "the store went back: {about}");
        let as_told = holds == told.value
            && object.is_none_or(|object| told.value.is_none() || version(object) == told.version);
        let as_tried = told.under_way == Some(holds);
        assert!(as_told || as_tried, "an acknowledged write is lost: {about}");
        if let Some(object) = object {
            assert!(version(object) >= told.version || !as_told, "{about}");
            told.version = version(object);
        }
        (told.value, told.under_way) = (holds, None);
    }
    at
}

fn up(sandbox: &Sandbox) {
    Answer::from(dbctl(sandbox.home()).args(["sandbox", "up"]).output().unwrap()).ok();
}

fn kill_and_wait(sandbox: &Sandbox) {
    let text = dbctl(sandbox.home()).args(["sandbox", "status", "-o", "json"]).output().unwrap().stdout;
    let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let id = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("gone", || match rustix::process::test_kill_process(pid) {
        Ok(()) => Err("it is still there".to_owned()),
        Err(_) => Ok(()),
    });
}

/// `KILLS=100 cargo test --test runner -- --ignored the_sandbox_killed`: a minute for each ten.
#[test]
#[ignore = "long: KILLS says how often"]
fn the_sandbox_killed_under_load_keeps_what_it_acknowledged() {
    let kills: usize = std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let sandbox = Sandbox::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ledger = Ledger::default();
    let began = Instant::now();
    let (mut highest, mut seed) = (0, began.elapsed().subsec_nanos() as u64 ^ std::process::id() as u64);
    for kill in 1..=kills {
        up(&sandbox);
        let client = runtime.block_on(sandbox.client());
        let at = runtime.block_on(check(&client, &ledger, &format!("before kill {kill}")));
        assert!(at >= highest, "kill {kill}: the list is at {at}, earlier than {highest}");
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (client, ledger, stop) = (client.clone(), ledger.clone(), stop.clone());
                runtime.spawn(write_until_it_dies(client, writer, ledger, stop))
            })
            .collect();
        // A random moment: from the first write to some hundreds later.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((seed >> 33) % 1200));
        kill_and_wait(&sandbox);
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        highest = ledger.lock().unwrap().values().map(|told| told.version).max().unwrap_or(0).max(highest);
        println!(
            "kill {kill}: {} objects, version {highest}, {:?}",
            ledger.lock().unwrap().len(),
            began.elapsed()
        );
    }
    up(&sandbox);
    let client = runtime.block_on(sandbox.client());
    runtime.block_on(check(&client, &ledger, "after the last kill"));
}
