//! A connection carried between two others.

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Carries bytes both ways until either side ends; while `halted` says so of what is watched, nothing moves, and nobody
/// is told.
pub(in crate::sandbox::node) async fn carry<T>(
    one: &mut TcpStream,
    other: &mut TcpStream,
    mut watched: watch::Receiver<T>,
    halted: impl Fn(&T) -> bool,
) {
    let copy = copy_bidirectional(one, other);
    futures::pin_mut!(copy);
    loop {
        if watched.wait_for(|state| !halted(state)).await.is_err() {
            return;
        }
        tokio::select! {
            _ = &mut copy => return,
            halt = watched.wait_for(&halted) => if halt.is_err() { return },
        }
    }
}
