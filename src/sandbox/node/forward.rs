//! A pod's ports as streams: `port-forward`.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::http::Shared;
use super::remote::{is_spdy, is_websocket, spdy, upgrade_required, websocket};
use super::spdy::{self, Stream, Streams};

/// SPDY inside a WebSocket, as kubectl speaks it.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// What a WebSocket may speak, the preferred one first. The others have two channels for each port.
const WEBSOCKET_PROTOCOLS: [&str; 3] = [TUNNELLED, "v5.channel.k8s.io", "v4.channel.k8s.io"];
/// The protocol on top of SPDY.
const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// How much is read at once, and lies between two connections.
const PIECE: usize = 32 * 1024;
/// How many pieces wait in either direction.
const QUEUE: usize = 32;

/// Whose ports they are.
#[derive(Clone, Debug)]
struct Pod {
    name: String,
    address: String,
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let address = format!("{}:{port}", self.address);
        let stream = TcpStream::connect(&address).await.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        stream.map_err(|error| {
            format!(
                "error forwarding port {port} to pod {}: failed to connect to {address}: {error}",
                self.name
            )
        })
    }
}

/// Answers `/portForward/NAMESPACE/POD`.
pub(super) async fn port_forward(
    State((context, _)): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let address = context.pod(&namespace, &name).and_then(|run| run.facts.borrow().address.clone());
    let Some(address) = address else {
        let message = format!("unable to upgrade connection: pod not found (\"{name}_{namespace}\")");
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    let pod = Pod { name, address };
    if is_spdy(&parts) {
        return spdy(&mut parts, SPDY_PROTOCOL, move |streams| pairs(streams, pod));
    }
    if !is_websocket(&parts) {
        return upgrade_required();
    }
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let upgrade = match websocket(&mut parts, &WEBSOCKET_PROTOCOLS).await {
        Ok(upgrade) => upgrade,
        Err(refusal) => return refusal,
    };
    if upgrade.selected_protocol().is_some_and(|protocol| protocol == TUNNELLED) {
        return upgrade.on_upgrade(move |socket| async move {
            let (near, far) = tokio::io::duplex(2 * PIECE);
            let streams = spdy::serve(near);
            tokio::join!(pairs(streams, pod), tunnel(socket, far));
        });
    }
    match ports(&query) {
        Ok(ports) => upgrade.on_upgrade(move |socket| channels(socket, pod, ports)),
        Err(message) => (StatusCode::BAD_REQUEST, message).into_response(),
    }
}

/// The ports that a query names.
fn ports(query: &str) -> Result<Vec<u16>, String> {
    let named = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "port");
    let mut ports = Vec::new();
    for (_, list) in named {
        for text in list.split(',') {
            match text.parse() {
                Ok(port) if port > 0 => ports.push(port),
                _ => return Err(format!("port {text:?} must be a number from 1 to 65535")),
            }
        }
    }
    // Two channels each, and a channel has one byte.
    if ports.is_empty() || ports.len() > 127 {
        return Err("query parameter \"port\" is required, and may be given 127 times at most".to_owned());
    }
    Ok(ports)
}

/// A WebSocket's messages as bytes of a connection, both ways.
async fn tunnel(socket: WebSocket, connection: DuplexStream) {
    let (mut sink, mut source) = socket.split();
    let (reader, mut writer) = tokio::io::split(connection);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) if writer.write_all(&bytes).await.is_ok() => {}
                Message::Binary(_) | Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    };
    let mut pieces = ReaderStream::with_capacity(reader, PIECE);
    let outward = async {
        while let Some(Ok(bytes)) = pieces.next().await {
            if sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    tokio::join!(inward, outward);
}

/// Each connection has two streams: one for what is sent, one for what goes wrong.
async fn pairs(mut streams: Streams, pod: Pod) {
    let mut halves: HashMap<String, Stream> = HashMap::new();
    while let Some(stream) = streams.next().await {
        let id = stream.header("requestid").unwrap_or_default().to_owned();
        match halves.remove(&id) {
            None => drop(halves.insert(id, stream)),
            Some(other) => {
                let (data, error) = match (stream.header("streamtype"), other.header("streamtype")) {
                    (Some("data"), Some("error")) => (stream, other),
                    (Some("error"), Some("data")) => (other, stream),
                    _ => {
                        stream.output.reset().await;
                        other.output.reset().await;
                        continue;
                    }
                };
                tokio::spawn(forward(data, error, pod.clone()));
            }
        }
    }
}

async fn forward(mut data: Stream, error: Stream, pod: Pod) {
    let port = data.header("port").and_then(|port| port.parse().ok()).unwrap_or_default();
    match pod.connect(port).await {
        Ok(connection) => {
            let (reader, mut writer) = connection.into_split();
            let inward = async {
                while let Some(bytes) = data.input.recv().await {
                    if writer.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                let _ = writer.shutdown().await;
            };
            let output = data.output.clone();
            let mut pieces = ReaderStream::with_capacity(reader, PIECE);
            let outward = async {
                while let Some(Ok(bytes)) = pieces.next().await {
                    if !output.send(bytes).await {
                        return;
                    }
                }
                output.finish().await;
            };
            // The pod's end is the end; a client that has said all may still be answered.
            tokio::pin!(inward);
            tokio::select! {
                () = outward => {}
                () = data.output.closed() => {}
                () = async { (&mut inward).await; std::future::pending::<()>().await } => {}
            }
        }
        Err(message) => {
            error.output.send(message.into()).await;
            data.output.finish().await;
        }
    }
    error.output.finish().await;
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Two channels for each port: an even one for what is sent, an odd one for what goes wrong. Each begins with its port.
async fn channels(socket: WebSocket, pod: Pod, ports: Vec<u16>) {
    let (mut sink, mut source) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Bytes>(QUEUE);
    let mut inputs = Vec::new();
    let mut work: Vec<Work> = Vec::new();
    let pod = Arc::new(pod);
    for (number, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(2 * number).unwrap_or_default();
        let (input, typed) = mpsc::channel(QUEUE);
        inputs.push(input);
        work.push(Box::pin(one(channel, port, Arc::clone(&pod), typed, sender.clone())));
    }
    drop(sender);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) if bytes.len() > 1 => {
                    let input = bytes.first().filter(|channel| **channel % 2 == 0);
                    if let Some(input) = input.and_then(|channel| inputs.get(usize::from(*channel / 2))) {
                        let _ = input.send(bytes.slice(1..)).await;
                    }
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        inputs.clear();
    };
    let outward = async {
        while let Some(bytes) = outgoing.recv().await {
            if sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    // All answers are out once the pod's side of every port has ended; before that, the client may go.
    tokio::select! {
        _ = futures::future::join(futures::future::join_all(work), outward) => {}
        () = inward => {}
    }
}

/// One port of them.
async fn one(
    channel: u8,
    port: u16,
    pod: Arc<Pod>,
    mut typed: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
) {
    let framed = |channel: u8, bytes: &[u8]| {
        let mut message = BytesMut::with_capacity(bytes.len() + 1);
        message.put_u8(channel);
        message.put_slice(bytes);
        message.freeze()
    };
    for channel in [channel, channel + 1] {
        let _ = outgoing.send(framed(channel, &port.to_le_bytes())).await;
    }
    let connection = match pod.connect(port).await {
        Ok(connection) => connection,
        Err(message) => {
            let _ = outgoing.send(framed(channel + 1, message.as_bytes())).await;
            return;
        }
    };
    let (reader, mut writer) = connection.into_split();
    let inward = async {
        while let Some(bytes) = typed.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
        std::future::pending::<()>().await;
    };
    let mut pieces = ReaderStream::with_capacity(reader, PIECE);
    let outward = async {
        while let Some(Ok(bytes)) = pieces.next().await {
            if outgoing.send(framed(channel, &bytes)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_one_by_one_or_in_a_list() {
        assert_eq!(ports("port=5432&port=8008").unwrap(), [5432, 8008]);
        assert_eq!(ports("port=1,2").unwrap(), [1, 2]);
        for wrong in ["", "port=0", "port=x", "port=70000"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
