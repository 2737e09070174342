//! Connections that can break: a listener that closes its port in an outage, and resets what was connected.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Active, Faults};

/// How long after a failure to accept, or to have the port again, it is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Who is at the other end of a TCP connection, and the means to break it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    cut: CancellationToken,
}

impl Peer {
    /// Breaks the connection: the other side reads a reset.
    pub fn reset(&self) {
        self.cut.cancel();
    }

    /// An address without a connection.
    pub fn nobody(address: SocketAddr) -> Self {
        Self { address, cut: CancellationToken::new() }
    }
}

/// A TCP listener that is closed while an outage refuses connections.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    listener: Option<TcpListener>,
    faults: Arc<Faults>,
    changed: watch::Receiver<Option<Arc<Active>>>,
    /// Cancelled to break every connection there is.
    all: CancellationToken,
}

impl Gate {
    /// Listens at an address; port 0 takes any.
    ///
    /// # Errors
    /// Where the address cannot be had.
    pub async fn bind(address: SocketAddr, faults: Arc<Faults>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let changed = faults.active.subscribe();
        Ok(Self { address, listener: Some(listener), faults, changed, all: CancellationToken::new() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits out an outage with the port closed.
    async fn closed(&mut self) {
        std::mem::take(&mut self.all).cancel();
        if self.listener.take().is_some()
            && let Some(active) = self.faults.current()
        {
            active.tally.refusals.fetch_add(1, Ordering::Relaxed);
        }
        while self.faults.is_refusing() {
            // The sender lives as long as the faults that this holds.
            let _ = self.changed.changed().await;
        }
    }
}

impl Listener for Gate {
    type Io = Line;
    type Addr = Peer;

    async fn accept(&mut self) -> (Line, Peer) {
        loop {
            self.changed.mark_unchanged();
            if self.faults.is_refusing() {
                self.closed().await;
                continue;
            }
            let Some(listener) = &self.listener else {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => self.listener = Some(listener),
                    Err(error) => {
                        tracing::error!("failed to listen on {} again: {error}", self.address);
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            };
            let accepted = tokio::select! {
                biased;
                _ = self.changed.changed() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    // A watch event is small and must not wait for the next one.
                    let _ = stream.set_nodelay(true);
                    let cut = self.all.child_token();
                    let peer = Peer { address, cut: cut.clone() };
                    return (Line::new(stream, cut), peer);
                }
                Err(error) => {
                    // One client that has gone is nothing; a lack of descriptors passes.
                    tracing::debug!("failed to accept a connection: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer::nobody(self.address))
    }
}

/// One TCP connection.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    broken: bool,
}

impl Line {
    fn new(stream: TcpStream, cut: CancellationToken) -> Self {
        Self { stream, cut: Box::pin(cut.cancelled_owned()), broken: false }
    }

    /// Waits for the first bytes, and leaves them to be read.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub async fn peek(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            self.check(cx).map_or_else(
                |error| Poll::Ready(Err(error)),
                |()| self.stream.poll_peek(cx, &mut ReadBuf::new(bytes)),
            )
        })
        .await
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.broken && self.cut.as_mut().poll(cx).is_ready() {
            self.broken = true;
            // With this, closing sends a reset and no orderly end.
            let _ = self.stream.set_zero_linger();
        }
        if self.broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Listens on a Unix socket, which faults do not reach: by it they can be cleared whatever they are.
///
/// # Errors
/// Where the socket cannot be made.
pub fn local(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}
