//! What a kubelet is told of a controller: that it lives, and whether it is ready.
//!
//! It lives while it answers: whether the API server does is no reason to start it anew, and a holder that loses the Lease ends
//! by itself. It is ready once it has seen everything that it watches, and works or stands by for the one that does: only then
//! may a rollout end the one before.

use std::io;
use std::net::TcpListener;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lease::{Claim, Tenure};
use super::metrics::listening;

/// What readiness is told from.
#[derive(Clone, Debug)]
pub struct Health {
    lists: Vec<watch::Receiver<bool>>,
    lease: Option<(watch::Receiver<bool>, Claim)>,
}

/// Where a controller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It works.
    Working,
    /// Another holds the Lease; it would take over.
    StandingBy,
    /// Its first lists are not complete.
    Listing,
    /// It knows nothing of the Lease yet.
    Seeking,
}

impl Health {
    /// Of a controller that waits for those lists, and campaigns for the Lease, if there is one.
    pub fn new(lists: Vec<watch::Receiver<bool>>, tenure: Option<&Tenure>) -> Self {
        Self { lists, lease: tenure.map(|tenure| (tenure.seen(), tenure.claim())) }
    }

    fn standing(&self) -> Stage {
        let lease = self.lease.as_ref().map(|(seen, claim)| (*seen.borrow(), claim.holds()));
        standing(self.lists.iter().all(|list| *list.borrow()), lease)
    }

    /// Answers `GET /healthz` and `GET /readyz` there until `stop`, in plain HTTP and to whoever asks: a kubelet shows no token, and
    /// there is nothing to hide.
    ///
    /// # Errors
    /// Where nobody can connect to it.
    pub fn tell(
        self,
        listener: &TcpListener,
        stop: CancellationToken,
    ) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(move || async move { page(self.standing()) }));
        let listener = listening(listener)?;
        Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).into_future())
    }
}

/// `lease`: whether it was seen, and whether this controller holds it; `None` where there is none to hold.
fn standing(listed: bool, lease: Option<(bool, bool)>) -> Stage {
    match lease {
        _ if !listed => Stage::Listing,
        None | Some((_, true)) => Stage::Working,
        Some((true, false)) => Stage::StandingBy,
        Some((false, false)) => Stage::Seeking,
    }
}

fn page(standing: Stage) -> Response {
    let (code, text) = match standing {
        Stage::Working => (StatusCode::OK, "working\n"),
        Stage::StandingBy => (StatusCode::OK, "standing by: another controller holds the Lease\n"),
        Stage::Listing => (StatusCode::SERVICE_UNAVAILABLE, "the first lists are not complete\n"),
        Stage::Seeking => (StatusCode::SERVICE_UNAVAILABLE, "the Lease has not been read yet\n"),
    };
    (code, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_has_seen_everything_and_works_or_stands_by() {
        use Stage::{Listing, Seeking, StandingBy, Working};
        for (listed, lease, wanted) in [
            (false, None, Listing),
            (true, None, Working),
            (false, Some((true, true)), Listing),
            (true, Some((false, false)), Seeking),
            (true, Some((true, false)), StandingBy),
            (true, Some((true, true)), Working),
            // A write that succeeded is a look, too.
            (true, Some((false, true)), Working),
        ] {
            let found = standing(listed, lease);
            assert_eq!(found, wanted, "{listed} {lease:?}");
            let ready = page(found).status().is_success();
            assert_eq!(ready, matches!(wanted, Working | StandingBy));
        }
    }

    #[test]
    fn lists_count_when_all_are_complete() {
        let (one, first) = watch::channel(false);
        let (two, second) = watch::channel(false);
        let health = Health { lists: vec![first, second], lease: None };
        for (sender, wanted) in [(&one, Stage::Listing), (&two, Stage::Working)] {
            sender.send_replace(true);
            assert_eq!(health.standing(), wanted);
        }
    }
}
