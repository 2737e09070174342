//! The server over HTTP: the recorded scenarios that need no controller, and what the recordings do not touch.

mod behaviour;
mod faults;
mod replay;
mod rights;
mod rules;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::{ApiConfig, Running, serve};

const ADMIN: &str = "an administrator's token";

/// A server of a test's own.
struct Server {
    running: Running,
    stop: CancellationToken,
    http: reqwest::Client,
}

impl Server {
    async fn start(state_dir: &Path) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stop = CancellationToken::new();
        let config = ApiConfig::new(
            state_dir.to_owned(),
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            Ipv4Addr::new(127, 99, 255, 0),
            ADMIN,
        );
        let running = serve(config, stop.clone()).await.unwrap();
        Self { running, stop, http: reqwest::Client::new() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.address)
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method.parse().unwrap(), self.url(path)).bearer_auth(ADMIN)
    }

    async fn stop(self) {
        self.stop.cancel();
        drop(self.http);
        self.running.finished().await.unwrap();
    }
}
