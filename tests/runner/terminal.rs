//! What commands do where there is no terminal: none asks, and what is watched is told line by line.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use crate::backups::cluster::{NAME, back_up, create, directory};
use crate::support::{Sandbox, dbctl, eventually};

#[test]
fn nobody_is_asked_without_a_terminal_and_a_watched_status_is_told_anew() {
    let store = directory();
    let sandbox = Sandbox::own();
    create(&sandbox, "2", &format!("file://{}", store.path().display()), &["--version", "16.14"]);
    back_up(&sandbox);
    let before = sandbox.database(NAME);
    for args in [
        &["failover", NAME][..],
        &["restart", NAME],
        &["upgrade", NAME, "--to", "16.15"],
        &["restore", NAME, "--in-place"],
        &["delete", NAME],
        &["delete", NAME, "--deletion-policy", "delete"],
        &["sandbox", "reset"],
    ] {
        let answer = sandbox.run(args);
        assert!(answer.code == 2 && answer.stderr.contains("--yes"), "{args:?}: {}", answer.transcript());
        assert!(
            answer.stderr.contains("there is no terminal to ask at"),
            "{args:?}: {}",
            answer.transcript()
        );
    }
    let shown = sandbox.run(&["delete", NAME, "--dry-run"]).ok();
    assert!(shown.stderr.contains("Would delete database \"db\""), "{}", shown.transcript());
    let shown = sandbox.run(&["scale", NAME, "--replicas", "3", "--dry-run"]).ok();
    assert!(shown.stdout.contains("db-2 would be cloned"), "{}", shown.transcript());
    let after = sandbox.database(NAME);
    assert_eq!(before["spec"], after["spec"]);
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert!(after["metadata"]["deletionTimestamp"].is_null());

    let mut watch = dbctl(sandbox.home());
    let watch =
        watch.args(["--sandbox", "status", NAME, "--watch"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = watch.spawn().unwrap();
    let out = BufReader::new(watch.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    let reader =
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut told: Vec<String> = Vec::new();
    let tells = |word: &str, told: &mut Vec<String>| {
        eventually(word, || {
            while let Ok(line) = lines.recv_timeout(Duration::from_millis(100)) {
                told.push(line);
            }
            if told.iter().any(|line| line.contains(word)) { Ok(()) } else { Err(told.join("\n")) }
        });
    };
    tells("PostgreSQL 16.14", &mut told);
    let pages = |told: &[String]| told.iter().filter(|line| line.starts_with("db  ")).count();
    let first = pages(&told);
    sandbox.run(&["pause", NAME]).ok();
    tells("dbctl is paused here", &mut told);
    assert!(pages(&told) > first, "{told:#?}");
    assert!(told.iter().all(|line| !line.contains('\x1b')), "{told:#?}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    drop(lines);
    let _ = reader.join();
}
