//! The far end of a command: standard streams, terminal sizes and a status, in channels of a WebSocket or streams of SPDY.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spdy::{self, Output, Stream};

/// The protocols of WebSockets, the preferred one first. The fifth version can say that standard input has ended.
const WEBSOCKET_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// The protocol on top of SPDY.
const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// How soon a SPDY client opens all the streams that it asked for.
const STREAMS_LIMIT: Duration = Duration::from_secs(30);
/// How many pieces wait in either direction.
const QUEUE: usize = 32;

/// The channels of a WebSocket.
const STDIN: u8 = 0;
const RESIZE: u8 = 4;
/// In version 5: the channel that follows has ended.
const CLOSE: u8 = 255;

/// What goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout = 1,
    Stderr = 2,
    /// The status, at the end.
    Error = 3,
}

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// Reads the options as kubelets name them.
    pub fn read(query: &str) -> Self {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let yes = matches!(&*value, "1" | "t" | "T" | "true" | "True" | "TRUE");
            match &*name {
                "input" => wanted.stdin = yes,
                "output" => wanted.stdout = yes,
                "error" => wanted.stderr = yes,
                "tty" => wanted.tty = yes,
                _ => {}
            }
        }
        // A terminal has one output only.
        wanted.stderr &= !wanted.tty;
        wanted
    }
}

/// A terminal's new size.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    pub width: u16,
    pub height: u16,
}

/// The client of a command.
#[derive(Debug)]
pub(super) struct Remote {
    /// What it types; ends where it does.
    pub stdin: mpsc::Receiver<Bytes>,
    pub resize: mpsc::Receiver<Size>,
    /// What it is shown. The connection is closed when this is dropped.
    pub out: mpsc::Sender<(Channel, Bytes)>,
    /// Cancelled when it goes.
    pub gone: CancellationToken,
}

/// The other ends of a remote.
struct Ends {
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<Size>,
    out: mpsc::Receiver<(Channel, Bytes)>,
    gone: CancellationToken,
}

fn remote() -> (Remote, Ends) {
    let (stdin, typed) = mpsc::channel(QUEUE);
    let (resize, sizes) = mpsc::channel(QUEUE);
    let (shown, out) = mpsc::channel(QUEUE);
    let gone = CancellationToken::new();
    let remote = Remote { stdin: typed, resize: sizes, out: shown, gone: gone.clone() };
    (remote, Ends { stdin, resize, out, gone })
}

/// Whether a request is for a WebSocket.
pub(super) fn is_websocket(parts: &Parts) -> bool {
    upgrades_to(parts, "websocket")
}

/// Whether a request is for SPDY.
pub(super) fn is_spdy(parts: &Parts) -> bool {
    upgrades_to(parts, "spdy/3.1")
}

fn upgrades_to(parts: &Parts, protocol: &str) -> bool {
    let upgrade = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(protocol))
}

/// The answer to a request that does not ask for streams.
pub(super) fn upgrade_required() -> Response {
    (StatusCode::BAD_REQUEST, "you must specify Upgrade: websocket or Upgrade: SPDY/3.1").into_response()
}

/// Accepts a WebSocket that speaks one of these protocols.
pub(super) async fn websocket(
    parts: &mut Parts,
    protocols: &[&'static str],
) -> Result<WebSocketUpgrade, Response> {
    let asked = parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let upgrade =
        WebSocketUpgrade::from_request_parts(parts, &()).await.map_err(IntoResponse::into_response)?;
    let upgrade = upgrade.protocols(protocols.iter().copied());
    if asked && upgrade.selected_protocol().is_none() {
        let message = format!("unable to upgrade: only {} can be spoken", protocols.join(", "));
        return Err((StatusCode::FORBIDDEN, message).into_response());
    }
    Ok(upgrade)
}

/// Accepts SPDY; what is sent in it comes to `serve`.
pub(super) fn spdy<F>(
    parts: &mut Parts,
    protocol: &'static str,
    serve: impl FnOnce(spdy::Streams) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
    // The future is made once the connection is there.
{
    let Some(upgrade) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
        return upgrade_required();
    };
    let offered = parts.headers.get_all(STREAM_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    if !offered.flat_map(|value| value.split(',')).any(|offered| offered.trim() == protocol) {
        let message = format!("unable to upgrade: only {protocol} can be spoken");
        return (StatusCode::FORBIDDEN, message).into_response();
    }
    let (connection, other) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(spdy::serve(connection)));
    tokio::spawn(async move {
        let mut other = other;
        match upgrade.await {
            Ok(upgraded) => {
                let _ = tokio::io::copy_bidirectional(&mut other, &mut TokioIo::new(upgraded)).await;
            }
            Err(error) => tracing::debug!(%error, "a connection did not become SPDY"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    response
}

/// Accepts whichever of the two a request asks for, and serves it.
pub(super) async fn accept<F>(
    mut parts: Parts,
    wanted: Wanted,
    serve: impl FnOnce(Remote) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    if is_websocket(&parts) {
        return match websocket(&mut parts, &WEBSOCKET_PROTOCOLS).await {
            Ok(upgrade) => upgrade.on_upgrade(move |socket| async move {
                let (remote, ends) = remote();
                tokio::join!(serve(remote), over_websocket(socket, ends, wanted));
            }),
            Err(refusal) => refusal,
        };
    }
    if is_spdy(&parts) {
        return spdy(&mut parts, SPDY_PROTOCOL, move |streams| async move {
            let (remote, ends) = remote();
            match tokio::time::timeout(STREAMS_LIMIT, gather(streams, wanted)).await {
                Ok(Some(gathered)) => {
                    tokio::join!(serve(remote), over_spdy(gathered, ends));
                }
                _ => tracing::debug!("a client did not open its streams"),
            }
        });
    }
    upgrade_required()
}

async fn over_websocket(socket: WebSocket, ends: Ends, wanted: Wanted) {
    let Ends { stdin, resize, mut out, gone } = ends;
    let (mut sink, mut source) = socket.split();
    let reading = async {
        let mut stdin = Some(stdin);
        while let Some(Ok(message)) = source.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                _ => continue,
            };
            match bytes.split_first() {
                Some((&STDIN, _)) if bytes.len() > 1 => {
                    if let Some(stdin) = &stdin {
                        let _ = stdin.send(bytes.slice(1..)).await;
                    }
                }
                Some((&RESIZE, text)) => {
                    if let Ok(size) = serde_json::from_slice(text) {
                        let _ = resize.send(size).await;
                    }
                }
                Some((&CLOSE, [STDIN])) => stdin = None,
                _ => {}
            }
        }
        gone.cancel();
    };
    let writing = async {
        // Tells the client that the connection is there.
        let first = if wanted.stdout { Channel::Stdout } else { Channel::Error };
        let mut sent = sink.send(framed(first, &Bytes::new())).await;
        while let (Ok(()), Some((channel, bytes))) = (&sent, out.recv().await) {
            sent = sink.send(framed(channel, &bytes)).await;
        }
        let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = sink.send(Message::Close(Some(normal))).await;
        let _ = sink.close().await;
    };
    tokio::pin!(reading, writing);
    tokio::select! {
        () = &mut reading => {
            // Whoever still writes finds nobody.
            out_of_reach(writing).await;
        }
        () = &mut writing => {
            // The client answers the close, or is gone; it is not waited for longer than that takes.
            let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
        }
    }
}

/// Lets a writer end whose reader has gone.
async fn out_of_reach(writing: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(Duration::from_secs(2), writing).await;
}

fn framed(channel: Channel, bytes: &Bytes) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel as u8);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// The streams of a SPDY client, by what they are for.
struct Gathered {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Stream,
    resize: Option<Stream>,
    /// Keeps the connection.
    _streams: spdy::Streams,
}

async fn gather(mut streams: spdy::Streams, wanted: Wanted) -> Option<Gathered> {
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let complete = |found: bool, wanted: bool| found || !wanted;
    loop {
        let stream = streams.next().await?;
        match stream.header("streamtype") {
            Some("stdin") => stdin = Some(stream),
            Some("stdout") => stdout = Some(stream),
            Some("stderr") => stderr = Some(stream),
            Some("error") => error = Some(stream),
            Some("resize") => resize = Some(stream),
            _ => stream.output.reset().await,
        }
        let all = complete(stdin.is_some(), wanted.stdin)
            && complete(stdout.is_some(), wanted.stdout)
            && complete(stderr.is_some(), wanted.stderr)
            && complete(resize.is_some(), wanted.tty);
        if all && let Some(error) = error.take_if(|_| all) {
            return Some(Gathered { stdin, stdout, stderr, error, resize, _streams: streams });
        }
    }
}

async fn over_spdy(gathered: Gathered, ends: Ends) {
    let Ends { stdin, resize, mut out, gone } = ends;
    let Gathered { stdin: typed, stdout, stderr, error, resize: sizes, _streams: mut streams } = gathered;
    let output = |stream: &Option<Stream>| stream.as_ref().map(|stream| stream.output.clone());
    let (shown, complaints, status) = (output(&stdout), output(&stderr), error.output.clone());
    let typing = async {
        if let Some(mut typed) = typed {
            while let Some(bytes) = typed.input.recv().await {
                if stdin.send(bytes).await.is_err() {
                    break;
                }
            }
        }
        drop(stdin);
    };
    let sizing = async {
        let mut pending = Vec::new();
        if let Some(mut sizes) = sizes {
            while let Some(bytes) = sizes.input.recv().await {
                pending.extend_from_slice(&bytes);
                for size in take_sizes(&mut pending) {
                    let _ = resize.send(size).await;
                }
            }
        }
    };
    let writing = async {
        while let Some((channel, bytes)) = out.recv().await {
            let stream: Option<&Output> = match channel {
                Channel::Stdout => shown.as_ref(),
                Channel::Stderr => complaints.as_ref(),
                Channel::Error => Some(&status),
            };
            if let Some(stream) = stream
                && !stream.send(bytes).await
            {
                break;
            }
        }
        for stream in [shown.as_ref(), complaints.as_ref(), Some(&status)].into_iter().flatten() {
            stream.finish().await;
        }
    };
    // It opens no further streams: the end of them is its own end.
    let leaving = async {
        while streams.next().await.is_some() {}
        gone.cancel();
    };
    let listening = async {
        tokio::join!(typing, sizing, leaving);
    };
    tokio::select! {
        () = writing => {}
        () = listening => {}
    }
}

/// The complete sizes at the beginning of what came.
fn take_sizes(pending: &mut Vec<u8>) -> Vec<Size> {
    let mut values = serde_json::Deserializer::from_slice(pending).into_iter::<Size>();
    let sizes: Vec<Size> = values.by_ref().map_while(Result::ok).collect();
    let taken = values.byte_offset();
    pending.drain(..taken.min(pending.len()));
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let wanted = |query: &str| {
            let Wanted { stdin, stdout, stderr, tty } = Wanted::read(query);
            [stdin, stdout, stderr, tty]
        };
        assert_eq!(wanted("input=1&output=true&error=1&command=x"), [true, true, true, false]);
        assert_eq!(wanted("output=1&error=1&tty=1"), [false, true, false, true]);
        assert_eq!(wanted("input=0"), [false; 4]);
    }

    #[test]
    fn sizes_come_in_pieces() {
        let mut pending = b"{\"Width\":80,\"Height\":24}\n{\"Width\":1".to_vec();
        assert_eq!(take_sizes(&mut pending), [Size { width: 80, height: 24 }]);
        pending.extend_from_slice(b"00,\"Height\":30}");
        assert_eq!(take_sizes(&mut pending), [Size { width: 100, height: 30 }]);
        assert!(take_sizes(&mut pending).is_empty());
    }
}
