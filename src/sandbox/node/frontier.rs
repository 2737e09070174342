//! Where pods reach the API server: a listener of the node that passes everything on, and can stop doing so.
//!
//! Bytes are passed as they are, TLS among them. On the loopback each pod has one of its own, so that one pod can be cut
//! off; pods with networks of their own share one, since their cuts are made in the network.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::proxy::carry;

/// How soon a listener that failed to accept tries again.
const RETRY: Duration = Duration::from_millis(10);

/// Stands between pods and the API server for as long as it lives.
#[derive(Debug)]
pub(super) struct Frontier {
    /// The URL by which pods call the API server through it.
    pub server: String,
    cut: watch::Sender<bool>,
    _work: AbortOnDropHandle<()>,
}

/// Scheme and address of a server.
fn parse(server: &str) -> Option<(String, SocketAddr)> {
    let uri: http::Uri = server.parse().ok()?;
    let scheme = uri.scheme_str()?.to_owned();
    let address: IpAddr = uri.host()?.trim_matches(['[', ']']).parse().ok()?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, SocketAddr::new(address, port)))
}

impl Frontier {
    /// For one pod on the loopback: at the server's own address, which is in its certificate, and another port.
    ///
    /// # Errors
    /// Why nothing can stand in between.
    pub async fn of_pod(server: &str) -> Result<Self, String> {
        match parse(server) {
            Some((scheme, target)) if target.ip().is_loopback() => {
                Self::open(&scheme, SocketAddr::new(target.ip(), 0), target).await
            }
            _ => Err(format!(
                "the API server at {server} is not on this machine, where the node could cut the way to it"
            )),
        }
    }

    /// For all pods, at an address that they can reach.
    ///
    /// # Errors
    /// Why not.
    pub async fn at(address: SocketAddr, server: &str) -> Result<Self, String> {
        let (scheme, target) = parse(server).ok_or_else(|| format!("{server} names no address"))?;
        Self::open(&scheme, address, target).await
    }

    async fn open(scheme: &str, address: SocketAddr, target: SocketAddr) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("listen on {address}: {error}");
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let server = format!("{scheme}://{}", listener.local_addr().map_err(failed)?);
        let cut = watch::Sender::new(false);
        let work = tokio::spawn(serve(listener, target, cut.subscribe()));
        Ok(Self { server, cut, _work: AbortOnDropHandle::new(work) })
    }

    /// Lets nothing through any more, without a word, or everything again.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(connections.spawn(pass(client, target, cut.clone()))),
                Err(_) => tokio::time::sleep(RETRY).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr, mut cut: watch::Receiver<bool>) {
    if cut.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    carry(&mut client, &mut server, cut, |cut| *cut).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_stalls_old_and_new_connections_until_it_heals() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", echo.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let frontier = Frontier::of_pod(&server).await.unwrap();
        let (_, address) = parse(&frontier.server).unwrap();
        let mut old = TcpStream::connect(address).await.unwrap();
        old.write_all(b"a").await.unwrap();
        assert_eq!(old.read_u8().await.unwrap(), b'a');

        frontier.cut(true);
        // Long enough for an echo many times over.
        let silence = Duration::from_millis(100);
        let mut new = TcpStream::connect(address).await.unwrap();
        for stream in [&mut old, &mut new] {
            stream.write_all(b"b").await.unwrap();
            assert!(
                tokio::time::timeout(silence, stream.read_u8()).await.is_err(),
                "neither an answer nor an end"
            );
        }
        frontier.cut(false);
        for stream in [&mut old, &mut new] {
            assert_eq!(stream.read_u8().await.unwrap(), b'b', "what was sent meanwhile arrives");
        }
        drop(frontier);
        assert!(TcpStream::connect(address).await.is_err() || old.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn a_server_elsewhere_is_not_fronted() {
        for server in ["https://10.0.0.1:6443", "https://kubernetes.default.svc", "nonsense"] {
            let error = Frontier::of_pod(server).await.unwrap_err();
            assert!(error.contains("not on this machine"), "{error}");
        }
        assert_eq!(parse("https://[::1]/"), Some(("https".to_owned(), "[::1]:443".parse().unwrap())));
    }
}
