//! Connections, each TLS or plain: its first byte tells.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// How long a client may take to begin, which a handshake is part of.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// How long accepting pauses when the process is out of file descriptors, or the like.
const PAUSE: Duration = Duration::from_millis(100);
/// What a TLS client says first: the record type of a handshake.
const HANDSHAKE: u8 = 22;

/// A connection that can be served.
pub type Connection = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A port of both. Handshakes happen beside each other: a slow client keeps nobody waiting.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    _accepting: JoinSet<()>,
}

impl Port {
    /// Takes connections from a listener.
    ///
    /// # Errors
    /// Where the listener has no address.
    pub fn new(listener: TcpListener, config: ServerConfig) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(64);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), sender));
        Ok(Self { address, ready, _accepting: accepting })
    }
}

impl Listener for Port {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.ready.recv().await {
            Some(next) => next,
            // Only where the accepting task broke: there is nothing to serve any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, ready: mpsc::Sender<(Connection, SocketAddr)>) {
    let mut beginning = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = beginning.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                // A watch event is small and must not wait for the next one.
                let _ = stream.set_nodelay(true);
                let (tls, ready) = (tls.clone(), ready.clone());
                beginning.spawn(async move {
                    match tokio::time::timeout(BEGIN_LIMIT, begin(stream, &tls)).await {
                        Ok(Ok(Some(connection))) => drop(ready.send((connection, peer)).await),
                        Ok(Err(error)) => tracing::debug!(%error, %peer, "a handshake failed"),
                        Ok(Ok(None)) | Err(_) => {}
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Waits for the first byte, and speaks as it asks; none for a client that says nothing.
async fn begin(stream: TcpStream, tls: &TlsAcceptor) -> io::Result<Option<Connection>> {
    let mut first = [0];
    Ok(match stream.peek(&mut first).await? {
        0 => None,
        _ if first[0] == HANDSHAKE => Some(Either::Right(Box::new(tls.accept(stream).await?))),
        _ => Some(Either::Left(stream)),
    })
}
