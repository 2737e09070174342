//! Patroni's REST API, as far as the controller uses it.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Answer;

/// The port of the REST API.
pub const REST_PORT: u16 = 8008;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Patroni polls twenty times a second apart for a switchover's end before it answers.
const SWITCHOVER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long PostgreSQL may take to start: a checkpoint is written first, so there is little to recover.
const RESTART_TIMEOUT: Duration = Duration::from_secs(300);

/// Why Patroni did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PatroniError {
    /// It did not answer.
    #[error("reach Patroni: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// It answered no.
    #[error("have Patroni do it: {status}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
}

/// Name and password for what changes something.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// Without the password: such values end up in logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A client for any member.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// A client that goes straight to the pods, whatever proxy the environment names.
    ///
    /// # Errors
    /// Where the HTTP client cannot be made.
    pub fn new() -> Result<Self, PatroniError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(ASK_TIMEOUT)
            // Patroni speaks HTTP/1.0 and closes after each answer.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { http })
    }

    /// What the member says of itself.
    ///
    /// # Errors
    /// Where it does not answer in time, or not with JSON.
    pub async fn ask(&self, member: IpAddr, within: Duration) -> Result<Answer, PatroniError> {
        self.fetch(&url(member, "patroni"), within).await
    }

    /// What something else beside Patroni answers at that URL.
    ///
    /// # Errors
    /// Where it does not answer in time, or not with such JSON.
    pub async fn fetch<T: DeserializeOwned>(&self, url: &str, within: Duration) -> Result<T, PatroniError> {
        Ok(self.http.get(url).timeout(within).send().await?.json().await?)
    }

    /// Changes the dynamic configuration.
    ///
    /// # Errors
    /// Where it does not answer, or refuses.
    pub async fn patch_config(
        &self,
        member: IpAddr,
        credentials: &Credentials,
        patch: &Value,
    ) -> Result<(), PatroniError> {
        let request = self.http.patch(url(member, "config")).timeout(ASK_TIMEOUT * 2).json(patch);
        send(request, credentials).await.map(drop)
    }

    /// Moves the primary's role from the leader, which is asked, to the candidate, or without one to whoever is fit and
    /// first. Returns Patroni's words.
    ///
    /// # Errors
    /// Where it does not answer, or refuses.
    pub async fn switchover(
        &self,
        member: IpAddr,
        credentials: &Credentials,
        leader: &str,
        candidate: Option<&str>,
    ) -> Result<String, PatroniError> {
        let mut body = json!({ "leader": leader });
        if let Some(candidate) = candidate {
            body["candidate"] = json!(candidate);
        }
        let request = self.http.post(url(member, "switchover")).timeout(SWITCHOVER_TIMEOUT).json(&body);
        send(request, credentials).await
    }

    /// Promotes the candidate, which is asked itself, where nobody leads. Patroni then checks neither its lag nor whether
    /// it confirmed commits: who asks must have. Returns Patroni's words.
    ///
    /// # Errors
    /// Where it does not answer, or refuses.
    pub async fn failover(
        &self,
        member: IpAddr,
        credentials: &Credentials,
        candidate: &str,
    ) -> Result<String, PatroniError> {
        let body = json!({ "candidate": candidate });
        let request = self.http.post(url(member, "failover")).timeout(SWITCHOVER_TIMEOUT).json(&body);
        send(request, credentials).await
    }

    /// Restarts the member's PostgreSQL, and waits until it runs again. Returns Patroni's words.
    ///
    /// # Errors
    /// Where it does not answer, or refuses, or PostgreSQL does not start.
    pub async fn restart(&self, member: IpAddr, credentials: &Credentials) -> Result<String, PatroniError> {
        let body = json!({ "timeout": RESTART_TIMEOUT.as_secs() });
        let request = self.http.post(url(member, "restart")).timeout(RESTART_TIMEOUT * 2).json(&body);
        send(request, credentials).await
    }

    /// Has the member, a replica, give its data up and copy the primary's anew. Returns Patroni's words, at once.
    ///
    /// # Errors
    /// Where it does not answer, or refuses.
    pub async fn reinitialize(
        &self,
        member: IpAddr,
        credentials: &Credentials,
    ) -> Result<String, PatroniError> {
        let body = json!({ "force": true });
        let request = self.http.post(url(member, "reinitialize")).timeout(ASK_TIMEOUT * 2).json(&body);
        send(request, credentials).await
    }
}

fn url(member: IpAddr, path: &str) -> String {
    match member {
        IpAddr::V4(address) => format!("http://{address}:{REST_PORT}/{path}"),
        IpAddr::V6(address) => format!("http://[{address}]:{REST_PORT}/{path}"),
    }
}

async fn send(request: reqwest::RequestBuilder, credentials: &Credentials) -> Result<String, PatroniError> {
    let response = request.basic_auth(&credentials.username, Some(&credentials.password)).send().await?;
    let status = response.status();
    let message = response.text().await?;
    if status.is_success() { Ok(message) } else { Err(PatroniError::Refused { status, message }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Json;
    use axum::http::HeaderMap;
    use axum::routing::{get, patch, post};

    #[test]
    fn addresses_of_both_families_make_urls() {
        assert_eq!(url("127.0.0.1".parse().unwrap(), "x"), "http://127.0.0.1:8008/x");
        assert_eq!(url("::1".parse().unwrap(), "x"), "http://[::1]:8008/x");
    }

    fn allowed(headers: &HeaderMap) -> bool {
        headers.get("authorization").is_some_and(|value| value == "Basic ZGJjdGw6c2VjcmV0")
    }

    /// A stand-in with Patroni's answers (its own tests, `features/` and api.py).
    fn router() -> axum::Router {
        axum::Router::new()
            .route(
                "/patroni",
                get(|| async {
                    Json(json!({ "role": "primary", "state": "running", "timeline": 3, "x": [] }))
                }),
            )
            .route(
                "/config",
                patch(|headers: HeaderMap, Json(body): Json<Value>| async move {
                    if allowed(&headers) {
                        (StatusCode::OK, body.to_string())
                    } else {
                        (StatusCode::UNAUTHORIZED, "no auth header received".into())
                    }
                }),
            )
            .route(
                "/switchover",
                post(|Json(body): Json<Value>| async move {
                    if body["candidate"] == "d-1" {
                        (StatusCode::OK, "Successfully switched over to \"d-1\"")
                    } else {
                        (StatusCode::PRECONDITION_FAILED, "candidate does not exists")
                    }
                }),
            )
    }

    #[tokio::test]
    async fn asks_patches_and_switches() {
        // The port is Patroni's own, so the address must be free: any of 127/8 is.
        let address: IpAddr = "127.83.17.9".parse().unwrap();
        let listener = tokio::net::TcpListener::bind((address, REST_PORT)).await.unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router()).await });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new().unwrap();
        let good = Credentials { username: "dbctl".into(), password: "secret".into() };
        let bad = Credentials { password: "wrong".into(), ..good.clone() };
        let answer = client.ask(address, ASK_TIMEOUT).await.unwrap();
        assert!(answer.is_running_primary());
        assert_eq!(answer.timeline, Some(3));
        client.patch_config(address, &good, &json!({ "ttl": 20 })).await.unwrap();
        let refused = client.patch_config(address, &bad, &json!({})).await.unwrap_err().to_string();
        assert!(refused.contains("401") && refused.contains("no auth header"), "{refused}");
        assert!(client.switchover(address, &good, "d-0", Some("d-1")).await.unwrap().contains("switched"));
        assert!(client.switchover(address, &good, "d-0", Some("d-9")).await.is_err());
        server.abort();
        assert!(matches!(
            client.ask("127.83.17.10".parse().unwrap(), ASK_TIMEOUT).await,
            Err(PatroniError::Unreachable(_))
        ));
    }
}
