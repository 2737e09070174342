//! Whether a secret is told to anybody: in arguments of programs, which everybody on a machine may read, in logs, events, or
//! what objects say of themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::Content;
use crate::external::runtime;
use crate::support::Sandbox;

/// Between two looks at the processes there are.
const LOOK: Duration = Duration::from_millis(5);
/// What is in Secrets and is none.
const OPEN: [&str; 10] =
    ["username", "dbname", "host", "port", "ca.crt", "cross.crt", "tls.crt", "rotation", "uri", "uri-ro"];

/// Hears what programs are started with.
pub struct Whispers {
    stop: Arc<AtomicBool>,
    heard: JoinHandle<BTreeSet<String>>,
}

impl Whispers {
    /// Listens from now on.
    pub fn listen() -> Self {
        let stop = Arc::<AtomicBool>::default();
        let end = Arc::clone(&stop);
        let heard = std::thread::spawn(move || {
            let mut heard = BTreeSet::new();
            while !end.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
                    if let Ok(words) = fs::read(process.path().join("cmdline")) {
                        heard.insert(String::from_utf8_lossy(&words).replace('\0', " "));
                    }
                }
                std::thread::sleep(LOOK);
            }
            heard
        });
        Self { stop, heard }
    }

    /// Looks for the secrets in everything that was told.
    #[track_caller]
    pub fn end(self, sandbox: &Sandbox, secrets: &[Content]) {
        self.stop.store(true, Ordering::Relaxed);
        let arguments: Vec<String> = self.heard.join().unwrap().into_iter().collect();
        let mut told = vec![("arguments".to_owned(), arguments.join("\n"))];
        logs(&sandbox.home().join("sandbox"), &mut told);
        told.push(("objects".to_owned(), objects(sandbox)));
        let secrets: BTreeSet<&String> = secrets
            .iter()
            .flatten()
            .filter(|(key, _)| !OPEN.contains(&key.as_str()))
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
            .collect();
        println!(
            "{} secrets are in none of {} texts, {} programs' arguments among them",
            secrets.len(),
            told.len(),
            arguments.len()
        );
        assert!(secrets.len() > 8 && told.len() > 5 && arguments.len() > 50);
        for (place, text) in &told {
            assert!(!text.is_empty(), "{place} is empty");
            for secret in &secrets {
                // Of a key, any line of it.
                let line = secret.lines().find(|line| !line.starts_with("-----")).unwrap();
                assert!(!text.contains(line), "a secret is in {place}");
            }
        }
    }
}

/// The files that are logs.
fn logs(directory: &Path, told: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let log = path.extension().is_some_and(|end| end == "log")
            || path.components().any(|part| part.as_os_str() == "logs");
        if kind.is_dir() {
            logs(&path, told);
        } else if kind.is_file() && log {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            if !text.is_empty() {
                told.push((path.display().to_string(), text));
            }
        }
    }
}

/// Everything that is kept but Secrets, as anybody sees it who may not read those.
fn objects(sandbox: &Sandbox) -> String {
    runtime().block_on(async {
        let client = sandbox.client().await;
        let mut all = String::new();
        for path in [
            "/api/v1/pods",
            "/api/v1/events",
            "/api/v1/configmaps",
            "/api/v1/services",
            "/apis/apps/v1/statefulsets",
            "/apis/batch/v1/jobs",
            "/apis/batch/v1/cronjobs",
            "/apis/db.example.com/v1alpha1/databases",
        ] {
            let list: Value =
                client.request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
            all.push_str(&list.to_string());
        }
        all
    })
}
