//! One address of a Service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::carry;
use super::table::Backends;
use crate::sandbox::node::network::Apart;

/// How long an endpoint may take to accept: it is on this very machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How soon an address that could not be had is tried again.
const LISTEN_RETRY: Duration = Duration::from_secs(1);

/// A front that is served until it is dropped.
#[derive(Debug)]
pub(super) struct Front {
    backends: watch::Sender<Backends>,
    task: JoinHandle<()>,
}

impl Front {
    pub fn open(address: SocketAddr, apart: Apart) -> Self {
        let (backends, receiver) = watch::channel(Backends::default());
        let task = tokio::spawn(serve(address, receiver, apart));
        Self { backends, task }
    }

    /// Changes where it leads to.
    pub fn lead_to(&self, backends: Backends) {
        self.backends.send_if_modified(|known| {
            let changed = *known != backends;
            *known = backends;
            changed
        });
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens while there is a ready endpoint.
async fn serve(address: SocketAddr, mut backends: watch::Receiver<Backends>, apart: Apart) {
    // Dropped with this task, which cuts what is left.
    let mut connections = JoinSet::new();
    loop {
        if backends.wait_for(|backends| !backends.ready.is_empty()).await.is_err() {
            return;
        }
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "failed to listen on service address {address}");
                tokio::time::sleep(LISTEN_RETRY).await;
                continue;
            }
        };
        let mut watched = backends.clone();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => {
                        connections.spawn(connect(client, backends.clone(), apart.clone()));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection to {address} was lost");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
                gone = none_ready(&mut watched) => {
                    if gone {
                        return;
                    }
                    break;
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Resolves when no endpoint is ready; whether that is because the front itself is gone.
async fn none_ready(backends: &mut watch::Receiver<Backends>) -> bool {
    backends.wait_for(|backends| backends.ready.is_empty()).await.is_err()
}

/// One connection: to an endpoint by chance, as a cluster's proxy chooses (taking turns would lead a client that connects
/// twice for each errand to the same one every time), or the next that accepts; until either side ends it or the
/// endpoint is taken out of the Service. Between pods that are cut off from each other it stands still.
async fn connect(mut client: TcpStream, mut backends: watch::Receiver<Backends>, apart: Apart) {
    let ready = backends.borrow_and_update().ready.clone();
    let Ok(from) = client.peer_addr() else { return };
    let Some((mut server, backend)) = dial(&ready, ulid::Ulid::new().random(), from, &apart).await else {
        reset(&client);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        () = carry(&mut client, &mut server, apart.subscribe(), |cut| apart.divides(cut, from.ip(), backend.ip())) => {}
        _ = backends.wait_for(|backends| !backends.known.contains(&backend)) => {
            // A reset says at once what a silent server would not.
            reset(&client);
            reset(&server);
        }
    }
}

async fn dial(
    ready: &BTreeSet<SocketAddr>,
    chance: u128,
    from: SocketAddr,
    apart: &Apart,
) -> Option<(TcpStream, SocketAddr)> {
    let count = ready.len();
    let first = usize::try_from(chance % count.max(1) as u128).unwrap_or(0);
    for backend in ready.iter().cycle().skip(first).take(count) {
        // Who is chosen does not depend on who can be reached: neither does it in a cluster.
        apart.subscribe().wait_for(|cut| !apart.divides(cut, from.ip(), backend.ip())).await.ok()?;
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend)).await {
            return Some((stream, *backend));
        }
    }
    None
}

/// Makes the coming close a reset.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that greets with its name and then echoes.
    async fn server(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    stream.write_all(name.as_bytes()).await.unwrap();
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    fn backends(ready: &[SocketAddr], known: &[SocketAddr]) -> Backends {
        Backends { ready: ready.iter().copied().collect(), known: known.iter().copied().collect() }
    }

    /// An address that was free a moment ago.
    async fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    async fn greeted(front: SocketAddr) -> Option<(TcpStream, u8)> {
        let mut stream = TcpStream::connect(front).await.ok()?;
        let mut name = [0];
        stream.read_exact(&mut name).await.ok()?;
        Some((stream, name[0]))
    }

    async fn until_greeted(front: SocketAddr) -> (TcpStream, u8) {
        loop {
            if let Some(found) = greeted(front).await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_refused(front: SocketAddr) {
        while TcpStream::connect(front).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn connections_are_spread_and_cut_when_their_endpoint_leaves() {
        let (a, b, address) = (server("a").await, server("b").await, free().await);
        let front = Front::open(address, Apart::never());
        assert!(greeted(address).await.is_none(), "no endpoint, no connection");
        front.lead_to(backends(&[a, b], &[a, b]));
        let (first, name) = until_greeted(address).await;
        // Both are met sooner or later: a hundred times the same is less likely than a broken machine.
        let mut second = None;
        for _ in 0..100 {
            let (stream, other) = until_greeted(address).await;
            second = second.or((other != name).then_some(stream));
        }
        let second = second.expect("only one endpoint is ever chosen");
        let (mut on_a, mut on_b) = if name == b'a' { (first, second) } else { (second, first) };

        // Not ready, but still of the Service: what is established stays.
        front.lead_to(backends(&[b], &[a, b]));
        for _ in 0..4 {
            assert_eq!(until_greeted(address).await.1, b'b');
        }
        on_a.write_all(b"x").await.unwrap();
        assert_eq!(on_a.read_u8().await.unwrap(), b'x');

        front.lead_to(backends(&[b], &[b]));
        assert!(on_a.read_u8().await.is_err(), "cut");
        on_b.write_all(b"y").await.unwrap();
        assert_eq!(on_b.read_u8().await.unwrap(), b'y');

        front.lead_to(Backends::default());
        assert!(on_b.read_u8().await.is_err(), "cut");
        until_refused(address).await;
        front.lead_to(backends(&[a], &[a]));
        assert_eq!(until_greeted(address).await.1, b'a');
        drop(front);
        until_refused(address).await;
    }

    #[tokio::test]
    async fn an_endpoint_that_refuses_is_passed_over() {
        let (gone, there, address) = (free().await, server("t").await, free().await);
        let front = Front::open(address, Apart::never());
        front.lead_to(backends(&[gone, there], &[gone, there]));
        for _ in 0..4 {
            assert_eq!(until_greeted(address).await.1, b't');
        }
        front.lead_to(backends(&[gone], &[gone]));
        // Accepted, and closed at once.
        assert!(greeted(address).await.is_none());
    }
}
