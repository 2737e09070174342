//! What servers in this process stand on, and how clients know them. Beside `s3s` it is the part that figures are measured with too.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::runtime::Runtime;

/// Where all of them say they are.
pub const REGION: &str = "us-east-1";
/// The bucket that each has.
pub const BUCKET: &str = "backups";

/// What a client proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    pub secret: String,
}

impl Key {
    pub fn new(id: &str, secret: &str) -> Self {
        Self { id: id.to_owned(), secret: secret.to_owned() }
    }
}

/// Threads for a server in this process; dropped with `shutdown_background`, as tests may be asynchronous themselves.
pub(super) fn threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A port of the loopback's, listening.
pub(super) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
