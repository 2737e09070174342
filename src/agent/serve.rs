//! The agent's own answer over HTTP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use axum::{Json, Router, routing::get};
use tokio::net::TcpListener;

use super::archive;
use super::aside::Beside;
use super::member::Member;
use super::metrics::Metrics;
use super::render::Environment;
use super::report::{AGENT_PORT, AgentReport, ArchiveReport, Disk, Fenced, PostmasterState};
use crate::api::{Kept, Recovered};
use crate::metrics::answer;

/// How old what is known of the volume may be: it fills slowly, and it may be far away.
const KEPT: Duration = Duration::from_secs(5);

/// Takes the port. There is one for each pod, so a second agent in the same pod cannot have it.
pub async fn listen(environment: &Environment) -> io::Result<TcpListener> {
    let everywhere = match environment.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    TcpListener::bind(SocketAddr::new(environment.listen.unwrap_or(everywhere), AGENT_PORT)).await
}

/// What is read from the volume.
#[derive(Clone, Default)]
struct Volume {
    disk: Option<Disk>,
    archive: Option<ArchiveReport>,
    kept: Option<Vec<Kept>>,
    recovered: Option<Recovered>,
}

/// What is said, and what is kept for it.
struct Own {
    member: Arc<Member>,
    fenced: Option<Fenced>,
    volume: Mutex<Option<(Instant, Volume)>>,
    metrics: Metrics,
}

/// Answers for as long as the agent lives.
pub async fn serve(listener: TcpListener, member: Arc<Member>) -> io::Result<()> {
    let fenced = std::fs::read(member.fence_note()).ok();
    let fenced = fenced.and_then(|text| serde_json::from_slice(&text).ok());
    let own = Arc::new(Own { member, fenced, volume: Mutex::new(None), metrics: Metrics::default() });
    let router = Router::new().route("/", get(report)).route("/metrics", get(metrics)).with_state(own);
    axum::serve(listener, router).await
}

async fn report(State(own): State<Arc<Own>>) -> Json<AgentReport> {
    let running = own.member.is_running();
    let Volume { disk, archive, kept, recovered } = own.volume().await;
    Json(AgentReport {
        postmaster: if running { PostmasterState::Running } else { PostmasterState::Stopped },
        disk,
        archive,
        fenced: own.fenced.clone(),
        kept,
        recovered,
        rotations: own.member.rotations(),
        major: own.member.major.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    })
}

async fn metrics(State(own): State<Arc<Own>>) -> Response {
    let disk = own.volume().await.disk;
    answer(own.metrics.page(&own.member, disk).await)
}

impl Own {
    async fn volume(&self) -> Volume {
        let kept = self.volume.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, volume)) = kept
            && at.elapsed() < KEPT
        {
            return volume;
        }
        let environment = &self.member.environment;
        let (data, sockets) = (environment.data.clone(), environment.sockets.clone());
        // A volume over a network may let its caller wait for ever.
        let attic = Arc::clone(&self.member.attic);
        let asked = tokio::task::spawn_blocking(move || Volume {
            disk: room(&data),
            archive: archive::report(&data, &sockets),
            kept: Some(attic.list(&data)),
            recovered: Beside::read(&data).ok().and_then(|beside| beside.recovered),
        });
        let volume = match tokio::time::timeout(Duration::from_millis(500), asked).await {
            Ok(Ok(volume)) => volume,
            _ => Volume::default(),
        };
        *self.volume.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), volume.clone()));
        volume
    }
}

/// Blocks that are kept for root are neither used nor free, as in `df`.
pub(super) fn room(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path).ok()?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    let (size, free) = (used.saturating_add(found.f_bavail), found.f_bavail);
    Some(Disk { size: size.saturating_mul(found.f_frsize), free: free.saturating_mul(found.f_frsize) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_no_more_room_than_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let disk = room(directory.path()).unwrap();
        assert!(disk.size > 0 && disk.free <= disk.size, "{disk:?}");
        assert_eq!(room(&directory.path().join("none")), None);
    }
}
