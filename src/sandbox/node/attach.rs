//! The output and the input of a container's main process: `attach`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{Mutex, mpsc};

use super::exec::success;
use super::http::Shared;
use super::logs::Tail;
use super::remote::{Channel, Remote, Wanted, accept};
use super::run::Run;

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The way into a container's standard input.
#[derive(Clone, Debug)]
pub(super) struct Stdin {
    /// Gone once it has ended.
    pipe: Arc<Mutex<Option<Sender>>>,
    /// Whether it ends with the first client.
    once: bool,
}

impl Stdin {
    pub fn new(pipe: Sender, once: bool) -> Self {
        Self { pipe: Arc::new(Mutex::new(Some(pipe))), once }
    }

    async fn write(&self, mut typed: mpsc::Receiver<Bytes>) {
        while let Some(bytes) = typed.recv().await {
            let mut pipe = self.pipe.lock().await;
            let Some(open) = pipe.as_mut() else { return };
            if open.write_all(&bytes).await.is_err() {
                *pipe = None;
            }
        }
        if self.once {
            *self.pipe.lock().await = None;
        }
    }
}

/// Answers `/attach/NAMESPACE/POD/CONTAINER`.
pub(super) async fn attach(
    State((context, _)): State<Shared>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let found = context.pod(&namespace, &pod).and_then(|run| Some((run.live(&container)?, run)));
    let Some((live, run)) = found else {
        let message =
            format!("unable to upgrade connection: container {container} not found in pod {pod}_{namespace}");
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    let wanted = Wanted::read(parts.uri.query().unwrap_or_default());
    let start = run.status(&container).map_or(0, |status| status.restart_count);
    let tail = match Tail::new(run.log(&container, start)) {
        Ok(tail) => tail,
        Err(error) => {
            let message = format!("failed to read the output of container {container}: {error}");
            return (StatusCode::INTERNAL_SERVER_ERROR, message).into_response();
        }
    };
    let stdin = live.stdin.filter(|_| wanted.stdin);
    accept(parts, wanted, move |remote| follow(run, container, start, tail, stdin, wanted, remote)).await
}

/// Stays with a container to its end or the client's.
async fn follow(
    run: Arc<Run>,
    container: String,
    start: i32,
    mut tail: Tail,
    stdin: Option<Stdin>,
    wanted: Wanted,
    remote: Remote,
) {
    let Remote { stdin: typed, resize: _resize, out, gone } = remote;
    let typing = async {
        if let Some(stdin) = stdin {
            stdin.write(typed).await;
        }
        std::future::pending::<()>().await;
    };
    let showing = async {
        loop {
            // Asked before reading: what is written up to the end is then in what is read.
            let over = is_over(&run, &container, start);
            for (errors, bytes) in tail.more().unwrap_or_default() {
                let channel = if errors && !wanted.tty { Channel::Stderr } else { Channel::Stdout };
                let shown = if channel == Channel::Stderr { wanted.stderr } else { wanted.stdout };
                if shown && out.send((channel, bytes.into())).await.is_err() {
                    return;
                }
            }
            if over {
                let _ = out.send((Channel::Error, success().to_string().into())).await;
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = showing => {}
        () = typing => {}
        () = gone.cancelled() => {}
    }
}

fn is_over(run: &Run, container: &str, start: i32) -> bool {
    let Some(status) = run.status(container) else { return true };
    status.restart_count != start || status.state.is_none_or(|state| state.running.is_none())
}
