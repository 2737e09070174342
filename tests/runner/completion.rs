//! Completions as shells and kubectl ask for them, from a sandbox, and from servers that do not answer.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::backups::cluster::{NAME, back_up, create, directory};
use crate::support::{Answer, Sandbox, dbctl};

/// What bash's hook runs for a line whose last word is being typed.
fn bash(mut command: Command, words: &[&str]) -> Answer {
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "false");
    command.arg("--").args(words).output().unwrap().into()
}

/// The names among the candidates: where a name is not had, there are still options.
#[track_caller]
fn candidates(home: &Path, words: &[&str]) -> Vec<String> {
    let answer = bash(dbctl(home), words);
    assert!(answer.code == 0 && answer.stderr.is_empty(), "{}", answer.transcript());
    names(&answer)
}

fn names(answer: &Answer) -> Vec<String> {
    answer.stdout.lines().filter(|line| !line.starts_with("--")).map(str::to_owned).collect()
}

#[test]
fn names_complete_from_the_cluster() {
    let store = directory();
    let sandbox = Sandbox::own();
    let home = sandbox.home();
    // A sandbox that does not run is not started for a word.
    assert_eq!(candidates(home, &["dbctl", "--sandbox", "status", ""]), Vec::<String>::new());
    assert!(!sandbox.kubeconfig().exists());

    create(&sandbox, "2", &format!("file://{}", store.path().display()), &[]);
    let backup = back_up(&sandbox)["id"].as_str().unwrap().to_owned();
    let some = |words: &[&str]| candidates(home, &[&["dbctl", "--sandbox"], words].concat());
    let kubeconfig = sandbox.kubeconfig().display().to_string();
    let tls = |words: &[&str]| candidates(home, &[&["dbctl", "--kubeconfig", &kubeconfig], words].concat());
    for (words, expected) in [
        (&["status", ""][..], vec![NAME]),
        (&["doctor", "d"], vec![NAME]),
        (&["report", "x"], vec![]),
        (&["failover", NAME, "--to", ""], vec!["db-0", "db-1"]),
        (&["logs", NAME, "--member", "db-1"], vec!["db-1"]),
        (&["restart", "other", "--member", ""], vec![]),
        (&["restore", "new", "--from", "d"], vec![NAME]),
        (&["restore", "new", "--from", NAME, "--backup", ""], vec![backup.as_str()]),
        (&["backup", "verify", NAME, "--backup", "2"], vec![backup.as_str()]),
        (&["-n", "defau"], vec!["default"]),
    ] {
        assert_eq!(some(words), expected, "{words:?}");
        assert_eq!(tls(words), expected, "{words:?}");
    }
    assert_eq!(tls(&["--context", ""]).len(), 1);

    // As kubectl's plugin.
    let bin = tempfile::tempdir().unwrap();
    let link = |name: &str| {
        let path = bin.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dbctl"), &path).unwrap();
        path
    };
    let (plugin, completion) = (link("kubectl-db"), link("kubectl_complete-db"));
    let run = |program: &Path, args: &[&str]| -> Answer {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", sandbox.kubeconfig()).env_remove("DBCTL_SANDBOX").env("DBCTL_HOME", home);
        command.env("NO_COLOR", "1").args(args).output().unwrap().into()
    };
    let told = run(&completion, &["status", ""]).ok();
    assert_eq!((names(&told), told.stderr.as_str()), (vec!["db".to_owned(), ":4".to_owned()], ""));
    let told = run(&completion, &["restore", "new", "--from", NAME, "--backup", ""]).ok();
    assert!(
        told.stdout.starts_with(&format!("{backup}\t")) && told.stdout.ends_with("\n:4\n"),
        "{}",
        told.stdout
    );
    assert!(run(&completion, &["stat"]).ok().stdout.starts_with("status\tShow how a database is"));
    let help = run(&plugin, &["status", "--help"]).ok();
    assert!(help.stdout.contains("Usage: kubectl db status [OPTIONS] <NAME>"), "{}", help.stdout);
    let hint = run(&plugin, &["status", "nosuch"]);
    assert!(hint.code == 6 && hint.stderr.contains("kubectl db list -A"), "{}", hint.transcript());
    assert_eq!(run(&plugin, &["status", NAME]).ok().code, 0);
    // And kubectl finds it.
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    let mut kubectl = Command::new("kubectl");
    kubectl.env("PATH", path).env("KUBECONFIG", sandbox.kubeconfig()).args(["db", "list", "-o", "name"]);
    match kubectl.output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "db\n", "{output:?}"),
        Err(error) => eprintln!("SKIPPED kubectl itself: {error}"),
    }
}

/// Far longer than the limit, and far shorter than a client that waits.
const BOUND: Duration = Duration::from_secs(8);

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_and_nothing_is_said() {
    let home = tempfile::tempdir().unwrap();
    // One takes connections and says nothing, one is closed, one is nowhere.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for server in [
        format!("http://{}", mute.local_addr().unwrap()),
        format!("https://{}", mute.local_addr().unwrap()),
        format!("http://{closed}"),
        "https://192.0.2.1:6443".to_owned(),
        "https://no-such-host.invalid:6443".to_owned(),
    ] {
        let kubeconfig = home.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        let kubeconfig = kubeconfig.display().to_string();
        let begun = Instant::now();
        let found = candidates(home.path(), &["dbctl", "--kubeconfig", &kubeconfig, "status", ""]);
        let took = begun.elapsed();
        println!("{server}: {took:?}");
        assert!(found.is_empty() && took < BOUND, "{server}: {found:?} after {took:?}");
    }
    for kubeconfig in ["/nonexistent/kubeconfig", "/dev/null"] {
        let words = ["dbctl", "--kubeconfig", kubeconfig, "status", ""];
        assert_eq!(candidates(home.path(), &words), Vec::<String>::new());
    }
}
