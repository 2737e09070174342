//! The `ip` tool.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::NetworkError;

/// Where namespaces have their names.
const NAMES: &str = "/run/netns";

/// The file of a namespace.
pub(super) fn file(namespace: &str) -> PathBuf {
    Path::new(NAMES).join(namespace)
}

/// The names of all namespaces.
pub(super) fn namespaces() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Has `ip` do several things, in a namespace or outside; it stops at the first that fails.
pub(super) fn run_blocking(namespace: Option<&str>, commands: &[String]) -> Result<(), NetworkError> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-netns", namespace]);
    }
    // A user's PATH may lack the directories of such tools.
    let path = std::env::var("PATH").unwrap_or_default();
    ip.args(["-batch", "-"]).env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    let mut child = ip
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetworkError::Tool)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all((commands.join("\n") + "\n").as_bytes()).map_err(NetworkError::Tool)?;
    }
    let output = child.wait_with_output().map_err(NetworkError::Tool)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let line =
        message.split_once("Command failed -:").and_then(|(_, rest)| rest.trim().parse::<usize>().ok());
    let command = line.and_then(|line| commands.get(line.saturating_sub(1))).or(commands.first());
    let message = message.lines().next().unwrap_or("it says nothing").to_owned();
    Err(NetworkError::Refused { command: command.cloned().unwrap_or_default(), message })
}

/// The same, without holding up others.
pub(super) async fn run(namespace: Option<&str>, commands: &[String]) -> Result<(), NetworkError> {
    let (namespace, commands) = (namespace.map(str::to_owned), commands.to_vec());
    let done = tokio::task::spawn_blocking(move || run_blocking(namespace.as_deref(), &commands)).await;
    done.unwrap_or_else(|error| Err(NetworkError::Tool(std::io::Error::other(error))))
}

/// Switches forwarding on in a namespace. The kernel's files are those of the namespace of who opens them.
pub(super) async fn forward(namespace: &str) -> Result<(), NetworkError> {
    let file = file(namespace);
    let failed =
        |error: std::io::Error| NetworkError::Io(format!("forward packets in {}", file.display()), error);
    let within = file.clone();
    // A thread of its own, which ends with it: whatever else runs on a thread must not find itself elsewhere.
    let thread = std::thread::spawn(move || -> std::io::Result<()> {
        use std::os::fd::AsFd;
        let namespace = std::fs::File::open(within)?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    });
    match tokio::task::spawn_blocking(move || thread.join()).await {
        Ok(Ok(result)) => result.map_err(failed),
        _ => Err(failed(std::io::Error::other("the thread failed"))),
    }
}
