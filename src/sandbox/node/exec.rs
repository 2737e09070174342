//! Commands in containers for whoever asks from outside: `exec`.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

use super::attach::Stdin;
use super::execution::{Door, Execution};
use super::http::Shared;
use super::paths::Mounts;
use super::remote::{Channel, Remote, Size, Wanted, accept};
use super::shim::Spec;

/// How much is read at once.
const PIECE: usize = 32 * 1024;
/// How long output may go on after the end: something in the background may hold it open.
const DRAIN: Duration = Duration::from_secs(5);

/// A container that runs, for those who want in.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub door: Door,
    /// How its main process was started.
    pub spec: Arc<Spec>,
    pub mounts: Arc<Mounts>,
    /// The way into its standard input, where it has one.
    pub stdin: Option<Stdin>,
}

/// Answers `/exec/NAMESPACE/POD/CONTAINER`.
pub(super) async fn exec(
    State((context, _)): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let command: Vec<String> = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "command")
        .map(|(_, value)| value.into_owned())
        .collect();
    if command.is_empty() {
        return (StatusCode::BAD_REQUEST, "you must specify at least one command").into_response();
    }
    let found = context.pod(&namespace, &pod).map(|run| (run.live(&container), run));
    let (live, pod) = match found {
        Some((Some(live), run)) => (live, run),
        Some((None, _)) => {
            let message = format!("unable to upgrade connection: container not found (\"{container}\")");
            return (StatusCode::NOT_FOUND, message).into_response();
        }
        None => {
            let message = format!("unable to upgrade connection: pod does not exist: {namespace}/{pod}");
            return (StatusCode::NOT_FOUND, message).into_response();
        }
    };
    let wanted = Wanted::read(&query);
    let identity = context.identity.ids;
    let begin = async move {
        // In a frozen container it would stand still, and its starter with it.
        pod.thawed(&container).await;
        live
    };
    accept(parts, wanted, move |remote| run(begin, command, wanted, identity, remote)).await
}

/// Runs a command for a client, to its end or the client's.
async fn run(
    live: impl Future<Output = Live>,
    command: Vec<String>,
    wanted: Wanted,
    ids: Option<(u32, u32)>,
    remote: Remote,
) {
    let Remote { stdin, resize, out, gone } = remote;
    let attended = async {
        let live = live.await;
        attend(&live, &command, wanted, ids, stdin, resize, &out).await
    };
    let status = tokio::select! {
        status = attended => status,
        () = gone.cancelled() => return,
    };
    let _ = out.send((Channel::Error, status.to_string().into())).await;
}

/// Runs a command; the status that it comes to.
async fn attend(
    live: &Live,
    command: &[String],
    wanted: Wanted,
    ids: Option<(u32, u32)>,
    stdin: mpsc::Receiver<Bytes>,
    resize: mpsc::Receiver<Size>,
    out: &mpsc::Sender<(Channel, Bytes)>,
) -> Value {
    let (ours, theirs) = match streams(wanted, ids) {
        Ok(streams) => streams,
        Err(error) => return failed(&format!("failed to open its standard streams: {error}")),
    };
    let translated: Vec<String> = command.iter().map(|word| live.mounts.translate(word)).collect();
    let mut spec =
        Spec { command: with_own_names(translated, &live.mounts), log: None, ..Spec::clone(&live.spec) };
    if wanted.tty && !spec.env.iter().any(|(name, _)| name == "TERM") {
        spec.env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let mut execution = match live.door.run(spec, theirs, wanted.tty).await {
        Ok(execution) => execution,
        Err(error) => {
            return failed(&format!("error executing command in container: failed to {}", startup(&error)));
        }
    };
    let (terminal, shown, complaints) = (ours.terminal, ours.stdout, ours.stderr);
    let typing = type_in(ours.stdin, stdin);
    let sizing = set_sizes(terminal, resize);
    let showing = async {
        tokio::join!(show(shown, Channel::Stdout, out), show(complaints, Channel::Stderr, out));
    };
    let code = follow(&mut execution, typing, sizing, showing).await;
    if code == 0 { success() } else { exited(command, code) }
}

/// An archive names its members by the paths that tar was given, and `kubectl cp` looks for its own: they are translated
/// back.
fn with_own_names(mut command: Vec<String>, mounts: &Mounts) -> Vec<String> {
    let [program, mode, ..] = command.as_slice() else { return command };
    let creates = mode == "-c" || mode == "--create" || (!mode.starts_with("--") && mode.contains('c'));
    if program.rsplit('/').next() != Some("tar") || !creates || !mode.contains('f') {
        return command;
    }
    let names = mounts.iter().map(|(own, host)| {
        let host = host.to_string_lossy();
        let escaped = host.replace(['.', '[', '*', '^', '$', '\\', ','], ".");
        format!(
            "--transform=s,^/*{}\\(/\\|$\\),{}\\1,S",
            escaped.trim_start_matches('/'),
            own.trim_start_matches('/')
        )
    });
    let names: Vec<String> = names.collect();
    // After the archive's name, which follows its mode.
    command.splice(3.min(command.len())..3.min(command.len()), names);
    command
}

fn startup(error: &super::execution::ExecError) -> String {
    match error {
        super::execution::ExecError::Start(message) => format!("start it: {message}"),
        error => error.to_string(),
    }
}

/// Stays with a command until it has ended and what it wrote is shown.
async fn follow(
    execution: &mut Execution,
    typing: impl Future<Output = ()>,
    sizing: impl Future<Output = ()>,
    showing: impl Future<Output = ()>,
) -> i32 {
    tokio::pin!(showing);
    let mut shown = false;
    let side = async {
        tokio::join!(typing, sizing);
        std::future::pending::<()>().await;
    };
    tokio::pin!(side);
    let code = loop {
        tokio::select! {
            code = execution.wait() => break code,
            () = &mut showing, if !shown => shown = true,
            () = &mut side => {}
        }
    };
    if !shown {
        let _ = tokio::time::timeout(DRAIN, showing).await;
    }
    code
}

async fn type_in(end: Option<Writer>, mut stdin: mpsc::Receiver<Bytes>) {
    let Some(Writer(mut end)) = end else { return };
    while let Some(bytes) = stdin.recv().await {
        if end.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn set_sizes(terminal: Option<OwnedFd>, mut sizes: mpsc::Receiver<Size>) {
    let Some(terminal) = terminal else { return };
    while let Some(Size { width, height }) = sizes.recv().await {
        let size = rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = rustix::termios::tcsetwinsize(&terminal, size);
    }
}

async fn show(end: Option<Reader>, channel: Channel, out: &mpsc::Sender<(Channel, Bytes)>) {
    let Some(mut end) = end else { return };
    while let Ok(bytes) = end.read().await {
        if bytes.is_empty() || out.send((channel, bytes)).await.is_err() {
            return;
        }
    }
}

/// This process's ends of a command's standard streams.
#[derive(Default)]
struct Ours {
    stdin: Option<Writer>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
    terminal: Option<OwnedFd>,
}

/// Makes pipes, or a terminal: this process's ends, and the command's.
fn streams(wanted: Wanted, ids: Option<(u32, u32)>) -> std::io::Result<(Ours, [OwnedFd; 3])> {
    if wanted.tty {
        return terminal(wanted, ids);
    }
    let mut ours = Ours::default();
    let (reader, writer) = pipe(ids)?;
    let stdin = if wanted.stdin {
        ours.stdin = Some(Writer::new(writer)?);
        reader
    } else {
        nothing()?
    };
    let outward = |wanted: bool| -> std::io::Result<(Option<Reader>, OwnedFd)> {
        if !wanted {
            return Ok((None, nothing()?));
        }
        let (reader, writer) = pipe(ids)?;
        Ok((Some(Reader::new(reader)?), writer))
    };
    let (shown, stdout) = outward(wanted.stdout)?;
    let (complaints, stderr) = outward(wanted.stderr)?;
    (ours.stdout, ours.stderr) = (shown, complaints);
    Ok((ours, [stdin, stdout, stderr]))
}

fn terminal(wanted: Wanted, ids: Option<(u32, u32)>) -> std::io::Result<(Ours, [OwnedFd; 3])> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    give(&slave, ids)?;
    let stdin = if wanted.stdin { Some(Writer::new(master.try_clone()?)?) } else { None };
    let ours =
        Ours { stdin, stdout: Some(Reader::new(master.try_clone()?)?), stderr: None, terminal: Some(master) };
    Ok((ours, [slave.try_clone()?, slave.try_clone()?, slave]))
}

/// A pipe that programs of the pod may open by name too: what is read, and what is written.
pub(super) fn pipe(ids: Option<(u32, u32)>) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Programs open /dev/stdout by its name too.
    give(&reader, ids)?;
    Ok((reader, writer))
}

fn give(file: &OwnedFd, ids: Option<(u32, u32)>) -> std::io::Result<()> {
    match ids {
        Some((user, group)) => std::os::unix::fs::fchown(file, Some(user), Some(group)),
        None => Ok(()),
    }
}

fn nothing() -> std::io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// The end of a pipe or terminal that is read.
struct Reader(Receiver);

/// The end of a pipe or terminal that is written.
struct Writer(Sender);

impl Reader {
    fn new(file: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?;
        Receiver::from_owned_fd_unchecked(file).map(Self)
    }

    /// What comes next; nothing at the end.
    async fn read(&mut self) -> std::io::Result<Bytes> {
        let mut piece = BytesMut::with_capacity(PIECE);
        match self.0.read_buf(&mut piece).await {
            Ok(_) => Ok(piece.freeze()),
            // A terminal that nobody has open any more.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(Bytes::new()),
            Err(error) => Err(error),
        }
    }
}

impl Writer {
    fn new(file: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?;
        Sender::from_owned_fd_unchecked(file).map(Self)
    }
}

pub(super) fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn exited(command: &[String], code: i32) -> Value {
    let message = format!(
        "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
        command.join(" ")
    );
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

fn failed(message: &str) -> Value {
    let message = format!("Internal error occurred: {message}");
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError",
        "details": {"causes": [{"message": message}]}, "code": 500})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_name_their_members_as_the_container_does() {
        let mut mounts = Mounts::default();
        mounts.add("/run/postgresql", "/tmp/h.x/v/1/run".into());
        let command = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let made = with_own_names(command("tar cf - /tmp/h.x/v/1/run/file"), &mounts);
        let name = "--transform=s,^/*tmp/h.x/v/1/run\\(/\\|$\\),run/postgresql\\1,S";
        assert_eq!(made, ["tar", "cf", "-", name, "/tmp/h.x/v/1/run/file"]);
        for other in ["tar -xmf - -C /tmp", "cat cf -", "tar"] {
            assert_eq!(with_own_names(command(other), &mounts), command(other));
        }
    }
}
