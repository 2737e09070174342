//! The figures that users feel, measured on the release binary: `cargo bench`.
//!
//! `cargo bench -- NAME` measures one of them: `database` is one database's life, `api` the API server with the objects
//! of a thousand, `scale` the controller with a thousand, `backups` what archiving, backups and restores take.

mod api;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "its stores are the tests', which need more and fail by panicking"
)]
mod backups;
#[path = "../runner/cache.rs"]
#[expect(clippy::unwrap_used, reason = "it is the tests'")]
mod cache;
mod objects;
mod scale;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
/// Measures and prints.
type Measure = fn() -> Outcome<()>;

/// Members of the measured database.
const MEMBERS: &str = "3";
/// How long the controller is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(60);
/// Calls of `status`; the median is printed.
const CALLS: usize = 21;

fn dbctl(home: &Path, args: &[&str]) -> Outcome<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_dbctl"))
        .args(args)
        .env("DBCTL_HOME", home)
        .env("DBCTL_SANDBOX", "1")
        // The controller logs each of its writes and events at this level.
        .env("RUST_LOG", "info,dbctl::controller=debug")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn status_field(pid: u64, field: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim_matches([':', '\t', ' ', 'k', 'B']).parse()?)
}

fn writes(home: &Path) -> Outcome<usize> {
    let log = std::fs::read_to_string(home.join("sandbox/daemon.log"))?;
    let told = |line: &&str| line.contains("dbctl::controller") && line.contains(": acting ");
    match log.lines().filter(told).count() {
        // A database has just been made: its log cannot be the one that says nothing of writes.
        0 => Err("the log tells of no write at all".into()),
        writes => Ok(writes),
    }
}

fn measure(home: &Path) -> Outcome<()> {
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_dbctl"))?.len();
    println!("release binary: {:.1} MB", size as f64 / 1e6);

    dbctl(home, &["create", "warm-up", "--storage", "1Gi", "--wait", "--deletion-policy", "Delete"])?;
    dbctl(home, &["delete", "warm-up", "--yes"])?;
    let start = Instant::now();
    dbctl(home, &["create", "figures", "--replicas", MEMBERS, "--storage", "1Gi", "--wait"])?;
    println!("create to Running, {MEMBERS} members, software cached: {:.1} s", start.elapsed().as_secs_f64());

    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        dbctl(home, &["status", "figures"])?;
        calls.push(start.elapsed());
    }
    calls.sort();
    println!("dbctl --sandbox status: {} ms (median of {CALLS})", calls[CALLS / 2].as_millis());

    let before = writes(home)?;
    std::thread::sleep(IDLE);
    println!("controller's writes in {} idle seconds: {}", IDLE.as_secs(), writes(home)? - before);

    let daemon: serde_json::Value =
        serde_json::from_str(&dbctl(home, &["sandbox", "status", "-o", "json"])?)?;
    let pid = daemon["pid"].as_u64().ok_or("no pid")?;
    let (resident, own) = (status_field(pid, "VmRSS")?, status_field(pid, "RssAnon")?);
    println!(
        "resident memory of API server, controllers and node: {:.1} MB ({:.1} MB of it not the program's file)",
        resident as f64 / 1e3,
        own as f64 / 1e3
    );
    Ok(())
}

/// One database's life in a sandbox of its own.
fn database() -> Outcome<()> {
    let home = tempfile::Builder::new().prefix("dbctl-").tempdir_in("/tmp")?;
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::os::unix::fs::symlink(cache::cache(), home.path().join("cache"))?;
    let outcome = measure(home.path());
    dbctl(home.path(), &["sandbox", "down"])?;
    outcome
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, directory] = arguments.as_slice()
        && mode == api::SERVER
    {
        return api::be_server(Path::new(directory));
    }
    if let [mode, directory] = arguments.as_slice()
        && mode == scale::SERVER
    {
        return scale::be_server(Path::new(directory));
    }
    // `cargo test --benches` and `--list` ask for no measurement.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let names: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with("--")).collect();
    let figures: [(&str, Measure); 4] = [
        ("database", database),
        ("api", api::measure),
        ("scale", scale::measure),
        ("backups", backups::measure),
    ];
    if let Some(unknown) = names.iter().find(|name| !figures.iter().any(|(known, _)| known == *name)) {
        return Err(format!("no figures of the name {unknown:?}: database, api, scale or backups").into());
    }
    for (_, measure) in figures.iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        measure()?;
    }
    Ok(())
}
