//! Connections, each TLS or plain: its first byte tells.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::sandbox::api::faults::{Gate, Line, Peer};

/// How long a client may take to begin, which a handshake is part of.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// What a TLS client says first: the record type of a handshake.
const HANDSHAKE: u8 = 22;

/// A connection that can be served.
pub type Connection = Either<Line, Box<TlsStream<Line>>>;

/// A port of both. Handshakes happen beside each other: a slow client keeps nobody waiting.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    ready: mpsc::Receiver<(Connection, Peer)>,
    _accepting: JoinSet<()>,
}

impl Port {
    /// Takes connections from a gate.
    pub fn new(gate: Gate, config: ServerConfig) -> Self {
        let address = gate.address();
        let (sender, ready) = mpsc::channel(64);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(gate, TlsAcceptor::from(Arc::new(config)), sender));
        Self { address, ready, _accepting: accepting }
    }
}

impl Connected<IncomingStream<'_, Port>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Self {
        stream.remote_addr().clone()
    }
}

impl Listener for Port {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        match self.ready.recv().await {
            Some(next) => next,
            // Only where the accepting task broke: there is nothing to serve any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer::nobody(self.address))
    }
}

async fn accept(mut gate: Gate, tls: TlsAcceptor, ready: mpsc::Sender<(Connection, Peer)>) {
    let mut beginning = JoinSet::new();
    loop {
        let (line, peer) = tokio::select! {
            accepted = gate.accept() => accepted,
            Some(_) = beginning.join_next() => continue,
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        beginning.spawn(async move {
            match tokio::time::timeout(BEGIN_LIMIT, begin(line, &tls)).await {
                Ok(Ok(Some(connection))) => drop(ready.send((connection, peer)).await),
                Ok(Err(error)) => tracing::debug!(%error, peer = %peer.address, "a handshake failed"),
                Ok(Ok(None)) | Err(_) => {}
            }
        });
    }
}

/// Waits for the first byte, and speaks as it asks; none for a client that says nothing.
async fn begin(mut line: Line, tls: &TlsAcceptor) -> io::Result<Option<Connection>> {
    let mut first = [0];
    Ok(match line.peek(&mut first).await? {
        0 => None,
        _ if first[0] == HANDSHAKE => Some(Either::Right(Box::new(tls.accept(line).await?))),
        _ => Some(Either::Left(line)),
    })
}
