//! What commands do where there is no terminal: none asks, and what is watched is told line by line. And what they do in one.

mod pty;
mod screen;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use pty::Terminal;

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

#[test]
fn a_watched_status_is_redrawn_in_place_and_fits_whatever_size_the_terminal_has() {
    let sandbox = Sandbox::own();
    sandbox.run(&["create", NAME, "--replicas", "1", "--storage", "1Gi", "--wait"]).ok();
    let mut watch = Terminal::run(sandbox.home(), (40, 100), &["status", NAME, "--watch"]);
    let whole = |screen: &screen::Screen| {
        let rows = screen.rows();
        let members = rows.iter().filter(|row| row.starts_with("db-0") && row.ends_with("sandbox")).count();
        rows[0].starts_with("db  Running")
            && members == 1
            && rows.iter().any(|row| row.starts_with("backups "))
    };
    watch.until("the page is there", whole);
    sandbox.run(&["pause", NAME]).ok();
    watch.until_shown("dbctl is paused here");
    watch.redrawn();
    let told = |screen: &screen::Screen| {
        let rows = screen.rows();
        rows.iter().filter(|row| row.starts_with("db  ")).count() == 1 && rows[0].starts_with("db  ")
    };
    watch.until("the page is whole", |screen| told(screen) && whole(screen));
    assert_eq!((watch.screen.scrolled, watch.screen.wrapped), (0, 0), "{}", watch.screen.text());

    // Too narrow for the table, and too low for the page.
    watch.resize(12, 44);
    let narrow = |screen: &screen::Screen| {
        let text = screen.text();
        told(screen) && text.ends_with("more lines)") && !text.contains("MEMBER   ROLE")
    };
    watch.until("it is narrow", narrow);
    watch.redrawn();
    watch.look();
    let begin = (watch.screen.scrolled, watch.screen.wrapped);
    watch.redrawn();
    assert_eq!((watch.screen.scrolled, watch.screen.wrapped), begin, "{}", watch.screen.text());
    watch.until("it is still narrow", narrow);

    watch.resize(50, 120);
    sandbox.run(&["resume", NAME]).ok();
    watch.until("it is wide again", |screen| whole(screen) && !screen.text().contains("paused"));
    watch.press("\x03");
    let left = watch.ended().interrupted();
    println!("{}", left.text);
    assert!(left.text.starts_with("db  Running"), "{}", left.text);
}

#[test]
fn in_a_terminal_somebody_is_asked_and_nothing_is_done_without_a_yes() {
    let sandbox = Sandbox::own();
    sandbox.run(&["create", NAME, "--replicas", "1", "--storage", "1Gi", "--wait"]).ok();
    let before = sandbox.database(NAME);
    let ask = |args: &[&str], question: &str| {
        let mut asked = Terminal::run(sandbox.home(), (24, 80), args);
        asked.until_shown(question);
        asked
    };
    let name = "Type the name (db) to delete it";
    for (args, question, answer) in [
        (&["delete", NAME][..], name, "no\r"),
        (&["delete", NAME], name, "\r"),
        (&["delete", NAME, "--deletion-policy", "delete"], name, "yes\r"),
        (&["restart", NAME], "[y/N]", "n\r"),
        (&["restart", NAME], "[y/N]", "\r"),
        (&["sandbox", "reset"], "[y/N]", "no\r"),
    ] {
        let mut asked = ask(args, question);
        asked.press(answer);
        let ended = asked.ended().with(5);
        println!("{}", ended.text);
        assert!(ended.text.contains(" is not "), "{}", ended.text);
    }
    for (args, question) in [(&["delete", NAME][..], name), (&["restart", NAME], "[y/N]")] {
        let mut asked = ask(args, question);
        asked.press("\x03");
        asked.ended().interrupted();
    }
    let after = sandbox.database(NAME);
    assert_eq!(before["metadata"]["annotations"], after["metadata"]["annotations"]);
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert!(after["metadata"]["deletionTimestamp"].is_null());

    let mut asked = ask(&["restart", NAME, "--wait"], "[y/N]");
    asked.press("y\r");
    asked.ended().with(0);
    let mut asked = ask(&["delete", NAME], name);
    asked.press("db\r");
    let ended = asked.ended().with(0);
    println!("{}", ended.text);
    assert_eq!(sandbox.run(&["status", NAME]).code, 6);
}
