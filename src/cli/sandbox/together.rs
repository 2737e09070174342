//! What runs side by side in one process, and the API server among it.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::kubeconfig;
use super::network::Held;
use crate::cli::error::{CliError, Result};
use crate::sandbox::api::{ApiConfig, Running, serve};
use crate::sandbox::home::Home;

/// The parts that run, each by its name.
#[derive(Debug, Default)]
pub struct Parts(JoinSet<Ended>);

type Ended = (&'static str, Result<(), String>);

impl Parts {
    /// Starts a part.
    pub fn spawn<E: Display + Send>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.0.spawn(async move { (name, work.await.map_err(|error| error.to_string())) });
    }

    /// Waits for the first to end. None ends by itself: one that does takes the whole down, to be started again whole.
    pub async fn ended_early(&mut self) -> CliError {
        match self.0.join_next().await {
            Some(ended) => match outcome(ended) {
                Ok(name) => CliError::failed(format!("go on: the {name} ended by itself")),
                Err(error) => error,
            },
            None => CliError::failed("go on: no part is left"),
        }
    }

    /// Waits for the first to end, and lets the others end.
    ///
    /// # Errors
    /// Where one of them failed.
    pub async fn until_one_ends(mut self, others: &CancellationToken) -> Result<()> {
        let first = self.0.join_next().await;
        others.cancel();
        let rest = self.0.join_all().await.into_iter().map(Ok);
        first.into_iter().chain(rest).filter_map(|ended| outcome(ended).err()).last().map_or(Ok(()), Err)
    }

    /// Waits for all to end, and breaks off those that do not in time. What they end with goes to the log.
    pub async fn drain(&mut self, limit: Duration) {
        let all = async {
            while let Some(ended) = self.0.join_next().await {
                match ended {
                    Ok((name, Ok(()))) => tracing::info!("the {name} has stopped"),
                    Ok((name, Err(error))) => tracing::error!("the {name} failed to {error}"),
                    Err(error) => tracing::error!("a part broke: {error}"),
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::error!("{} of the sandbox's parts did not stop in time", self.0.len());
            self.0.abort_all();
        }
    }
}

/// The name of a part that ended well.
fn outcome(ended: Result<Ended, JoinError>) -> Result<&'static str> {
    match ended {
        Ok((name, Ok(()))) => Ok(name),
        Ok((name, Err(error))) => Err(CliError::failed(format!("go on: the {name} failed to {error}"))),
        Err(error) => Err(CliError::failed(format!("go on: a part broke: {error}"))),
    }
}

/// Serves the API of a home, and writes the kubeconfig that leads there; with the administrator's token.
///
/// # Errors
/// Where it cannot be served, or a file not be written.
pub async fn serve_api(
    home: &Home,
    held: &Held,
    services: Option<Ipv4Addr>,
    stop: &CancellationToken,
) -> Result<(Running, String)> {
    let (state, network) = (home.state(), held.network);
    let token = kubeconfig::admin_token(&state)
        .map_err(|error| CliError::failed(format!("use the administrator's token: {error}")))?;
    let mut config = ApiConfig::new(state, network.api(), services.unwrap_or(network.services()), &token);
    config.names = network.names();
    let running = serve(config, stop.clone()).await.map_err(CliError::failed)?;
    kubeconfig::write(home, running.address, &running.authority, &token)
        .map_err(|error| CliError::failed(format!("write {}: {error}", home.kubeconfig().display())))?;
    Ok((running, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(ends: &[(&'static str, Result<(), &'static str>)]) -> Parts {
        let mut parts = Parts::default();
        for (name, end) in ends.iter().copied() {
            parts.spawn(name, async move { end });
        }
        parts
    }

    #[tokio::test]
    async fn the_first_end_says_who_and_why() {
        let said = async |ends| parts(ends).ended_early().await.message;
        assert!(said(&[("node", Ok(()))]).await.contains("go on: the node ended by itself"));
        assert!(said(&[("node", Err("listen"))]).await.contains("go on: the node failed to listen"));
        assert!(said(&[]).await.contains("no part is left"));

        let stop = CancellationToken::new();
        parts(&[("node", Ok(()))]).until_one_ends(&stop).await.unwrap();
        assert!(stop.is_cancelled());
        let mut parts = parts(&[("node", Err("listen"))]);
        let waits = CancellationToken::new();
        let told = waits.clone();
        parts.spawn("volumes", async move {
            told.cancelled().await;
            Ok::<_, &str>(())
        });
        let error = parts.until_one_ends(&waits).await.unwrap_err();
        assert!(error.message.contains("the node failed to listen"), "{}", error.message);
    }
}
