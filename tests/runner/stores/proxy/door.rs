//! The port: open, refusing, or a black hole.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// How the port behaves towards who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    /// Refuses connections.
    Shut,
    /// Drops what asks for one: nobody is answered.
    Black,
}

/// How many connections may wait to be accepted.
const QUEUE: u32 = 1024;

/// A wish, and who waits until it is so.
pub(super) type Turn = (Door, std::sync::mpsc::Sender<()>);

/// The port of a proxy. It stays taken while nobody listens there.
pub(super) struct Port {
    /// Bound and never listening.
    _keeper: TcpSocket,
    address: SocketAddr,
}

impl Port {
    /// Takes a free one of that address.
    pub fn take(address: SocketAddr) -> std::io::Result<Self> {
        let keeper = socket(address)?;
        let address = keeper.local_addr()?;
        Ok(Self { _keeper: keeper, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&self, queue: u32) -> std::io::Result<TcpListener> {
        socket(self.address)?.listen(queue)
    }

    /// Hands connections on, as the wishes say, until nobody can wish any more.
    pub async fn run(self, mut turns: mpsc::UnboundedReceiver<Turn>, serve: impl Fn(TcpStream)) {
        let mut standing = Standing::Shut;
        loop {
            let turn = match &standing {
                Standing::Open(listener) => tokio::select! {
                    turn = turns.recv() => turn,
                    connection = listener.accept() => {
                        match connection {
                            Ok((stream, _)) => serve(stream),
                            // Too many open files, say: others may close theirs.
                            Err(_) => tokio::task::yield_now().await,
                        }
                        continue;
                    }
                },
                Standing::Shut | Standing::Black { .. } => turns.recv().await,
            };
            let Some((door, done)) = turn else { return };
            // Two listeners would share what comes. Whoever waits to be accepted is reset.
            drop(standing);
            standing = self.stand(door).await.unwrap();
            let _ = done.send(());
        }
    }

    async fn stand(&self, door: Door) -> std::io::Result<Standing> {
        Ok(match door {
            Door::Open => Standing::Open(self.listen(QUEUE)?),
            Door::Shut => Standing::Shut,
            Door::Black => {
                let queue = self.listen(0)?;
                Standing::Black { _queue: queue, _filler: self.fill().await? }
            }
        })
    }

    /// Fills the queue. A process that is just being started holds a copy of the listener before until it is executed: whoever
    /// comes to that one is reset.
    async fn fill(&self) -> std::io::Result<TcpStream> {
        loop {
            match TcpStream::connect(self.address).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                other => return other,
            }
        }
    }
}

/// What there is on the port.
enum Standing {
    Open(TcpListener),
    Shut,
    /// A queue of none and the one connection that it holds all the same: Linux drops every further wish to connect.
    Black {
        _queue: TcpListener,
        _filler: TcpStream,
    },
}

/// Several sockets share the port.
fn socket(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
