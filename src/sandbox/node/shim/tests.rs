//! Containers for real: small shell programs, then postgres itself.

use std::path::Path;
use std::time::Duration;

use super::tree::Mark;
use super::*;
use crate::sandbox::node::process::{CONTAINER_MARK, Launcher, ProcessError};
use crate::sandbox::provision::{Identity, Provisioner, Silent};

/// Not a test: the shim that the tests start is this very test of the test binary.
#[test]
fn shim_entry() {
    if std::env::var_os(CONTAINER_MARK).is_some() {
        shim_main();
        std::process::exit(0);
    }
}

pub(crate) fn launcher(home: &Path) -> Launcher {
    let binary = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let arguments = ["--exact", "sandbox::node::shim::tests::shim_entry", "--nocapture", "--quiet"];
    let shim = std::iter::once(binary).chain(arguments.map(str::to_owned)).collect();
    Launcher { shim, home: home.to_owned(), programs: crate::sandbox::provision::test_cache() }
}

fn shell(script: &str) -> Spec {
    Spec {
        command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        directory: "/".into(),
        ids: None,
        log: None,
        stdin: false,
        enter: Enter::default(),
    }
}

fn mark(id: &str) -> Mark {
    Mark::new(format!("{CONTAINER_MARK}={id}"), Vec::new(), Vec::new())
}

fn unique(name: &str) -> String {
    format!("{name}-{}", ulid::Ulid::new())
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test]
async fn exit_codes_signals_and_output_are_reported() {
    let home = tempfile::tempdir().unwrap();
    let launcher = launcher(home.path());
    let cases =
        [("echo out; echo err >&2; exit 7", 7, None), ("kill -9 $$", 137, Some(9)), ("true", 0, None)];
    for (script, code, signal) in cases {
        let exit = launcher.start(&unique("exit"), shell(script), Vec::new()).await.unwrap().wait().await;
        assert_eq!((exit.code, exit.signal), (code, signal), "{script}");
        assert_eq!(exit.output.contains("out") && exit.output.contains("err"), code == 7, "{}", exit.output);
    }
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_said_so() {
    let home = tempfile::tempdir().unwrap();
    let mut spec = shell("");
    spec.command = vec!["no-such-program".to_owned()];
    let error = launcher(home.path()).start(&unique("none"), spec, Vec::new()).await.unwrap_err();
    let ProcessError::Start(message) = error else { panic!("{error}") };
    assert_eq!(message, "exec: \"no-such-program\": executable file not found in $PATH");
}

#[tokio::test]
async fn terminate_reaches_the_main_process_only() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("0.log");
    let mut spec = shell(
        "trap 'sleep 0.1; echo main-got-it; exit 3' TERM; \
         sh -c 'trap \"echo child-got-it\" TERM; echo ready; while :; do sleep 0.01; done' & \
         while :; do sleep 0.01; done",
    );
    spec.log = Some(log.clone());
    let id = unique("term");
    let mut process = launcher(home.path()).start(&id, spec, Vec::new()).await.unwrap();
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    until("the child", || text().contains("ready")).await;
    process.orders().give(Order::Terminate);
    let exit = process.wait().await;
    assert_eq!(exit.code, 3);
    assert!(text().contains("stdout F main-got-it") && !text().contains("child-got-it"), "{}", text());
    assert_eq!(mark(&id).processes().len(), 0, "the child went with it");
}

/// A daemon's way out of its parent's sight: a new session, twice removed.
const RUNAWAY: &str =
    "setsid sh -c 'sh -c \"echo away; trap : TERM HUP; while :; do sleep 0.01; done\" & exit 0' & wait";

#[tokio::test]
async fn what_ran_away_dies_with_the_main_process() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("0.log");
    let id = unique("away");
    let mut spec =
        shell(&format!("{RUNAWAY}; while ! grep -q away {}; do sleep 0.01; done; exit 5", log.display()));
    spec.log = Some(log);
    let exit = launcher(home.path()).start(&id, spec, Vec::new()).await.unwrap().wait().await;
    assert_eq!(exit.code, 5);
    assert_eq!(mark(&id).processes().len(), 0);
}

#[tokio::test]
async fn a_dead_daemon_takes_everything_with_it() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("0.log");
    let id = unique("orphan");
    let mut spec = shell(&format!("{RUNAWAY}; while :; do sleep 0.01; done"));
    spec.log = Some(log.clone());
    let process = launcher(home.path()).start(&id, spec, Vec::new()).await.unwrap();
    until("the runaway", || std::fs::read_to_string(&log).unwrap_or_default().contains("away")).await;
    assert!(mark(&id).processes().len() >= 3, "shim, main process and runaway");
    // What closes when the daemon dies.
    drop(process);
    until("the end of all", || mark(&id).processes().is_empty()).await;
}

#[tokio::test]
async fn a_killed_shim_does_not_save_its_container() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("0.log");
    let id = unique("shimless");
    let mut spec = shell(&format!("{RUNAWAY}; while :; do sleep 0.01; done"));
    spec.log = Some(log.clone());
    let mut process = launcher(home.path()).start(&id, spec, Vec::new()).await.unwrap();
    until("the runaway", || std::fs::read_to_string(&log).unwrap_or_default().contains("away")).await;
    process.kill_shim();
    assert_eq!(process.wait().await.code, 137);
    assert_eq!(mark(&id).processes().len(), 0);
}

#[tokio::test]
async fn a_frozen_container_can_be_killed() {
    let home = tempfile::tempdir().unwrap();
    let id = unique("frozen");
    let mut process = launcher(home.path()).start(&id, shell("kill -STOP $$"), Vec::new()).await.unwrap();
    let exit = process.kill().await;
    assert_eq!(exit.signal, Some(9));
    assert_eq!(mark(&id).processes().len(), 0);
}

#[tokio::test]
async fn postgres_runs_as_the_pods_user_and_does_not_outlive_the_daemon() {
    let cache = crate::sandbox::provision::test_cache();
    let image =
        tokio::task::spawn_blocking(move || Provisioner::new(cache).ensure("dbctl/postgres:16.15", &Silent));
    let image = image.await.unwrap().unwrap();
    let identity = Identity::of_pods();
    let home = tempfile::Builder::new().prefix("n").tempdir_in("/tmp").unwrap();
    identity.own(home.path()).unwrap();
    let (data, log) = (home.path().join("data"), home.path().join("0.log"));
    let mut spec = shell(&format!(
        "initdb -U postgres -D {data} >/dev/null && setsid -f postgres -D {data} -k {home} -c listen_addresses= \
         && while ! pg_isready -q -h {home}; do sleep 0.05; done; psql -h {home} -U postgres -Atc 'select 40 + 2'; \
         while :; do sleep 0.05; done",
        data = data.display(),
        home = home.path().display(),
    ));
    let mut path: Vec<_> = image.programs();
    path.extend(["/usr/bin".into(), "/bin".into()]);
    let path = std::env::join_paths(path).unwrap().into_string().unwrap();
    spec.env = vec![
        ("PATH".to_owned(), path),
        ("LD_LIBRARY_PATH".to_owned(), image.libraries().to_string_lossy().into_owned()),
    ];
    (spec.ids, spec.log) = (identity.ids, Some(log.clone()));
    let id = unique("postgres");
    let process = launcher(home.path()).start(&id, spec, Vec::new()).await.unwrap();
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    until("an answer", || text().contains("stdout F 42")).await;
    let pid: i32 = std::fs::read_to_string(data.join("postmaster.pid"))
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let everything =
        Mark::new(format!("{CONTAINER_MARK}={id}"), vec![data.clone()], vec![image.build.clone()]);
    assert!(everything.processes().contains(&pid));
    assert!(everything.processes().len() >= 7, "the server's own processes are seen too");
    drop(process);
    until("the end of postgres", || everything.processes().is_empty()).await;
    assert!(data.join("postmaster.pid").exists(), "it was killed, not stopped");
}
