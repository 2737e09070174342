//! Programs that are measured: how long they take, and how much memory.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Outcome;
use crate::status_field;

/// How often memory is looked at. What is read is the highest so far, so only what grows behind the last look is missed.
const LOOK: Duration = Duration::from_micros(500);
/// The same, where all of a tree of processes is added up.
const LOOK_AT_ALL: Duration = Duration::from_millis(20);

/// Runs it to its end, which must have that code; returns how long that took.
pub fn timed(command: &mut Command, code: i32) -> Outcome<Duration> {
    // No pipe: what it leaves running, to fetch ahead, would hold that open, and PostgreSQL does not wait for it either.
    let mut errors = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.try_clone()?);
    let began = Instant::now();
    let status = command.spawn()?.wait()?;
    let took = began.elapsed();
    if status.code() == Some(code) {
        return Ok(took);
    }
    errors.rewind()?;
    let mut words = String::new();
    errors.read_to_string(&mut words)?;
    Err(format!("{command:?}: {status}: {words}").into())
}

/// Runs it; returns what it printed.
pub fn output(command: &mut Command) -> Outcome<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// Runs one with its output in another's input; returns how long both took.
pub fn piped(first: &mut Command, second: &mut Command) -> Outcome<Duration> {
    let began = Instant::now();
    let mut from = first.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let pipe = from.stdout.take().ok_or("no pipe")?;
    let to = second.stdin(pipe).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let ended = from.wait()?;
    match ended.success() && to.success() {
        true => Ok(began.elapsed()),
        false => Err(format!("{first:?} | {second:?}: {ended}, {to}").into()),
    }
}

/// The most memory that a program has had resident by its end, in MB (VmHWM).
pub fn peak(command: &mut Command) -> Outcome<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let peak = follow(child.id().into(), || ended(&mut child));
    if child.wait()?.success() {
        peak.ok_or_else(|| "nothing was seen of it".into())
    } else {
        Err("it failed".into())
    }
}

fn ended(child: &mut Child) -> bool {
    child.try_wait().is_ok_and(|status| status.is_some())
}

fn follow(id: u64, mut ended: impl FnMut() -> bool) -> Option<f64> {
    let mut peak = None;
    while !ended() {
        // What has ended has none.
        if let Ok(kilobytes) = status_field(id, "VmHWM") {
            peak = Some(kilobytes as f64 * 1024.0 / 1e6);
        }
        std::thread::sleep(LOOK);
    }
    peak
}

/// The same of a program that somebody else starts while `work` runs: the one whose arguments `is` knows.
pub fn peak_of<T>(
    is: impl Fn(&[&str]) -> bool + Sync,
    work: impl FnOnce() -> Outcome<T>,
) -> Outcome<(T, f64)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Some(id) = find(&is) {
                    let gone = || {
                        !fs::exists(format!("/proc/{id}")).unwrap_or_default() || done.load(Ordering::Relaxed)
                    };
                    return follow(id, gone);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            None
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let peak = watch.join().ok().flatten();
        Ok((result?, peak.ok_or("the process was not seen")?))
    })
}

/// A process whose arguments, behind its name, are known by `is`.
pub fn find(is: impl Fn(&[&str]) -> bool) -> Option<u64> {
    let ids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    ids.into_iter().find(|id| {
        let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let arguments: Vec<&str> = line.split('\0').skip(1).collect();
        is(&arguments)
    })
}

/// The most memory of a program and all that it starts, in MB, with shared pages counted once (PSS).
pub fn peak_of_all(command: &mut Command) -> Outcome<f64> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak: f64 = 0.0;
    while !ended(&mut child) {
        peak = peak.max(shares(child.id().into()));
        std::thread::sleep(LOOK_AT_ALL);
    }
    if child.wait()?.success() { Ok(peak) } else { Err(format!("{command:?} failed").into()) }
}

fn shares(id: u64) -> f64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let own = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0);
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    own * 1024.0 / 1e6 + children.map(shares).sum::<f64>()
}
