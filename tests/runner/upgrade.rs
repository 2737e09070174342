//! Another release under write load: what clients see of each step, with the controller killed on the way, and with a
//! release that does not run.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use dbctl::api::{known_parameters, parameter_problem, value_problem};
use dbctl::sandbox::provision::{Provisioner, Silent};
use serde_json::Value;

use crate::proof::load::Load;
use crate::support::{Sandbox, cache, eventually};

/// What a database's status says of its upgrade: step and member, or nothing.
fn step(status: &Value) -> String {
    let upgrade = &status["upgrade"];
    match upgrade["step"].as_str() {
        Some(step) => format!("{step} {}", upgrade["pod"].as_str().unwrap_or("")).trim().to_owned(),
        None => String::new(),
    }
}

fn condition<'s>(status: &'s Value, kind: &str) -> (&'s str, &'s str, &'s str) {
    let found =
        status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == kind).unwrap();
    let text = |key: &str| found[key].as_str().unwrap();
    (text("status"), text("reason"), text("message"))
}

/// The release that each member's server says it is.
fn servers(sandbox: &Sandbox) -> Vec<String> {
    let status = sandbox.database("db")["status"].clone();
    let instances = status["instances"].as_array().unwrap();
    instances.iter().map(|instance| instance["version"].as_str().unwrap_or("?").to_owned()).collect()
}

/// A database of that release with writers on it.
fn loaded(sandbox: &Sandbox, release: &str, members: usize) -> Load {
    sandbox.start();
    sandbox
        .run(&[
            "create",
            "db",
            "--replicas",
            &members.to_string(),
            "--version",
            release,
            "--storage",
            "1Gi",
            "--wait",
        ])
        .ok();
    Load::start(sandbox, "db", members)
}

/// One step, when it began and the longest time without an acknowledged write in it.
struct Told {
    step: String,
    began: Duration,
    gap: Duration,
}

/// Follows the status until `done`, and tells of each step.
fn watch(
    sandbox: &mut Sandbox,
    load: &Load,
    mut each: impl FnMut(&mut Sandbox, &str),
    done: impl Fn(&Value) -> bool,
) -> Vec<Told> {
    let mut told: Vec<(String, Duration)> = Vec::new();
    eventually("done", || {
        let status = sandbox.database("db")["status"].clone();
        let now = step(&status);
        if !now.is_empty() && told.last().is_none_or(|(last, _)| *last != now) {
            told.push((now.clone(), load.now()));
            each(sandbox, &now);
        }
        if done(&status) { Ok(()) } else { Err(format!("{now}: {}", condition(&status, "UpToDate").2)) }
    });
    let end = load.now();
    let ends: Vec<Duration> = told.iter().skip(1).map(|(_, at)| *at).chain(Some(end)).collect();
    told.into_iter()
        .zip(ends)
        .map(|((step, began), end)| Told { step, began, gap: load.longest_gap(began, end) })
        .collect()
}

fn table(told: &[Told]) {
    for Told { step, began, gap } in told {
        println!("  {:>6.1} s  {step:<24} longest gap {:>7.3} s", began.as_secs_f64(), gap.as_secs_f64());
    }
}

fn is_done(status: &Value, release: &str) -> bool {
    status["version"] == release && status["upgrade"].is_null() && condition(status, "UpToDate").0 == "True"
}

/// The primary, which any member may have become when all started at once, and the replicas, highest first.
fn roles(sandbox: &Sandbox) -> (String, Vec<String>) {
    let status = sandbox.database("db")["status"].clone();
    let primary = status["primary"].as_str().unwrap().to_owned();
    let members = status["instances"].as_array().unwrap().iter().rev();
    let members = members.map(|member| member["name"].as_str().unwrap().to_owned());
    (primary.clone(), members.filter(|member| *member != primary).collect())
}

/// Replicas came first, and the primary last, once its role had moved, which may be too quick to be seen in a status.
#[track_caller]
fn kept_its_order(sandbox: &Sandbox, told: &[Told], (primary, replicas): &(String, Vec<String>)) {
    let members = replicas.iter().chain([primary]).map(|member| format!("Replica {member}"));
    assert_eq!(order(told), members.collect::<Vec<_>>());
    let steps = || told.iter().map(|told| told.step.as_str());
    let last = steps().position(|step| step == format!("Replica {primary}"));
    let moved = steps().position(|step| step.starts_with("Switchover"));
    assert!(moved.is_none_or(|moved| Some(moved) < last), "{:?}", steps().collect::<Vec<_>>());
    // Why, only the controller that asked for it knows, and it may have been killed.
    assert_eq!(sandbox.database("db")["status"]["lastFailover"]["from"], primary.as_str());
}

/// What must hold at the end, whatever happened.
#[track_caller]
fn nothing_is_lost(load: Load) {
    let (rows, lost, doubles) = load.end();
    println!("  {rows} rows acknowledged, {lost} lost, {doubles} times two primaries");
    assert!(rows > 100, "nobody wrote");
    assert_eq!((lost, doubles), (0, 0));
}

/// The members that got the other release, as they come.
fn order(told: &[Told]) -> Vec<&str> {
    let mut order: Vec<&str> = Vec::new();
    let steps = told.iter().map(|told| told.step.as_str());
    for step in steps.filter(|step| step.starts_with("Replica")) {
        if !order.contains(&step) {
            order.push(step);
        }
    }
    order
}

fn upgrade_under_load(from: &str, to: &str) {
    let mut sandbox = Sandbox::alone();
    let load = loaded(&sandbox, from, 3);
    let plan = sandbox.run(&["upgrade", "db", "--to", to, "--dry-run"]).ok();
    let roles = roles(&sandbox);
    let first = format!("1. {}, a replica, restarts with", roles.1[0]);
    assert!(plan.stdout.contains(&first), "{}", plan.transcript());
    assert_eq!(servers(&sandbox), [from; 3], "a dry run changes nothing");
    sandbox.run(&["upgrade", "db", "--to", to, "--yes"]).ok();
    let told = watch(&mut sandbox, &load, |_, _| {}, |status| is_done(status, to));
    println!("{from} to {to}:");
    table(&told);
    kept_its_order(&sandbox, &told, &roles);
    assert_eq!(sandbox.database("db")["status"]["lastFailover"]["reason"], "RollingUpdate");
    assert_eq!(servers(&sandbox), [to; 3]);
    assert_eq!(sandbox.sql("db", "show server_version"), to);
    settings_are_known(&sandbox, to);
    nothing_is_lost(load);
}

/// What a real server has as settings is in the table of names that may be given, for its major.
#[track_caller]
fn settings_are_known(sandbox: &Sandbox, release: &str) {
    let release: dbctl::api::PgVersion = release.parse().unwrap();
    // Those that only superusers see aside.
    let shown = sandbox.sql("db", "select name from pg_settings where context <> 'internal'");
    let unknown: Vec<&str> =
        shown.lines().filter(|name| parameter_problem(name, release).is_some()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let values = sandbox.sql(
        "db",
        "select name || '=' || current_setting(name) from pg_settings where context <> 'internal'",
    );
    let wrong = values.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        value_problem(name, value).map(|problem| format!("{name} {problem}"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new());
    let has = |(_, first, last): &(&str, u8, u8)| (*first..=*last).contains(&release.major());
    let (known, shown) = (known_parameters().filter(has).count(), shown.lines().count());
    assert!(
        shown > 250 && known >= shown && known < shown + 60,
        "{known} names are known, {shown} are shown"
    );
}

#[test]
#[ignore = "long: three members, with a table of the gaps"]
fn an_upgrade_under_load_loses_nothing_and_keeps_to_its_order() {
    upgrade_under_load("16.13", "16.15");
}

#[test]
#[ignore = "long: the same for another major"]
fn an_upgrade_of_17_under_load() {
    upgrade_under_load("17.9", "17.11");
}

/// A home whose cache has one more release, whose servers end at once.
fn broken(sandbox: &Sandbox, release: &str, like: &str) {
    let link = sandbox.home().join("cache");
    std::fs::remove_file(&link).unwrap();
    std::fs::create_dir(&link).unwrap();
    std::fs::set_permissions(&link, std::fs::Permissions::from_mode(0o755)).unwrap();
    Provisioner::new(cache()).ensure(&format!("dbctl/postgres:{like}"), &Silent).unwrap();
    for entry in std::fs::read_dir(cache()).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), link.join(entry.file_name())).unwrap();
    }
    let (good, bad) =
        (cache().join(format!("postgresql-{like}")), link.join(format!("postgresql-{release}")));
    let copied = Command::new("cp").args(["-a", "--"]).arg(&good).arg(&bad).status().unwrap();
    assert!(copied.success());
    let server = bad.join("bin/postgres");
    std::fs::rename(&server, bad.join("bin/postgres.real")).unwrap();
    let real = bad.join("bin/postgres.real");
    // What only asks for its version or settings is answered: it is the server that does not run.
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do case $word in -V|--version|--describe-config|-C) exec {} \"$@\";; esac; done\n\
         echo 'PANIC:  this build is broken' >&2\nexit 1\n",
        real.display()
    );
    std::fs::write(&server, script).unwrap();
    std::fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_release_that_does_not_run_halts_at_the_first_replica_and_writes_go_on() {
    let sandbox = Sandbox::alone();
    // No such release exists, so that nothing else can be meant.
    broken(&sandbox, "16.99", "16.15");
    let load = loaded(&sandbox, "16.15", 3);
    let (primary, replicas) = roles(&sandbox);
    let began = load.now();
    let answer = sandbox.run(&["upgrade", "db", "--to", "16.99", "--yes", "--wait", "--timeout", "5m"]);
    assert_eq!(answer.code, 1, "{}", answer.transcript());
    assert!(
        answer.stderr.contains(&format!("halted, since {}", replicas[0]))
            && answer.stderr.contains("--resume"),
        "{}",
        answer.transcript()
    );
    eventually("its old release back", || {
        let status = sandbox.database("db")["status"].clone();
        let (ready, _, message) = condition(&status, "Ready");
        if ready == "True" && servers(&sandbox) == ["16.15"; 3] { Ok(()) } else { Err(message.to_owned()) }
    });
    let status = sandbox.database("db")["status"].clone();
    assert_eq!(condition(&status, "UpToDate").1, "RolloutHalted");
    assert_eq!(
        (status["primary"].as_str(), status["lastFailover"].is_null()),
        (Some(primary.as_str()), true)
    );
    let gap = load.longest_gap(began, load.now());
    println!("a broken release: the longest gap was {:.3} s", gap.as_secs_f64());
    assert!(gap < Duration::from_secs(5), "writes stopped for {gap:?}");
    // A controller that starts anew leaves it so.
    sandbox.run(&["sandbox", "down"]).ok();
    sandbox.start();
    eventually("back", || {
        let status = sandbox.database("db")["status"].clone();
        let (ready, _, message) = condition(&status, "Ready");
        if ready == "True" { Ok(()) } else { Err(message.to_owned()) }
    });
    assert_eq!(servers(&sandbox), ["16.15"; 3]);
    sandbox.run(&["upgrade", "db", "--abort", "--yes", "--wait"]).ok();
    let status = sandbox.database("db")["status"].clone();
    assert_eq!((condition(&status, "UpToDate").0, status["upgrade"].is_null()), ("True", true));
    nothing_is_lost(load);
}

/// The controller killed at the `kill`th step, and a new one started at once.
fn killed_at(kill: Option<usize>, members: usize) -> Vec<Told> {
    let mut sandbox = Sandbox::apart();
    let load = loaded(&sandbox, "16.13", members);
    let roles = roles(&sandbox);
    sandbox.run(&["upgrade", "db", "--to", "16.15", "--yes"]).ok();
    let mut steps = 0;
    let told = watch(
        &mut sandbox,
        &load,
        |sandbox, _| {
            if kill.is_none_or(|kill| kill == steps) {
                sandbox.replace_controller();
            }
            steps += 1;
        },
        |status| is_done(status, "16.15"),
    );
    table(&told);
    kept_its_order(&sandbox, &told, &roles);
    assert_eq!(servers(&sandbox), vec!["16.15"; members]);
    nothing_is_lost(load);
    told
}

#[test]
fn an_upgrade_whose_controller_is_killed_at_every_step_keeps_to_its_order() {
    killed_at(None, 2);
}

/// `cargo test --test runner -- --ignored --nocapture killed_at_each_step`: an upgrade for each step.
#[test]
#[ignore = "long: an upgrade for each step"]
fn upgrades_whose_controller_is_killed_at_each_step_in_turn() {
    let (mut kill, mut steps) = (0, 1);
    while kill < steps {
        println!("the controller is killed at step {kill}:");
        steps = killed_at(Some(kill), 3).len();
        kill += 1;
    }
}
