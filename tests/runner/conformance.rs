//! The sandbox's API server and controllers against the recordings.

use std::path::PathBuf;

use futures::StreamExt;

use crate::recording::{Recording, Target};

fn recordings() -> Vec<Recording> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recording_replays() {
    let server = crate::support::ControlPlane::start().await;
    let recordings = recordings();
    let total = recordings.len();
    let target: &Target = &server.target;
    let results: Vec<(String, Result<(), String>)> = futures::stream::iter(&recordings)
        .map(|recording| async move { (recording.name.clone(), recording.replay(target).await) })
        .buffer_unordered(6)
        .collect()
        .await;
    let mut failed = Vec::new();
    for (name, result) in results {
        match result {
            Ok(()) => println!("conformance {name}: passed"),
            Err(problem) => failed.push(format!("conformance {name}: {problem}")),
        }
    }
    server.stop().await;
    println!("conformance: {} of {total} recordings passed", total - failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
