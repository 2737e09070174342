//! Who may ask a node: a bearer token is reviewed by the API server, and so is what its user may do, as kubelets have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReviewSpec};
use kube::Client;

use crate::reviews::{self, ReviewError};

/// How long an answer counts. Short: a token may be taken back, and a right too.
const REMEMBER: Duration = Duration::from_secs(10);
/// How many answers are kept at most.
const MOST: usize = 1000;
/// Whoever is in it may do everything, on every node.
const MASTERS: &str = "system:masters";

/// Why a request is not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// It does not say who asks, or the token is none.
    Unknown,
    /// Its user may not.
    Forbidden(String),
    /// Nobody can tell.
    Unanswered(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()),
            Self::Forbidden(message) => (StatusCode::FORBIDDEN, message),
            Self::Unanswered(message) => (StatusCode::INTERNAL_SERVER_ERROR, message),
        }
        .into_response()
    }
}

type Key = (ring::digest::Digest, &'static str);

/// Asks the API server, and remembers its answers for a moment.
#[derive(Clone)]
pub(super) struct Guard {
    client: Client,
    node: Arc<str>,
    known: Arc<Mutex<HashMap<Vec<u8>, Known>>>,
}

/// An answer, and when it was given.
type Known = (Instant, Result<(), Refusal>);

impl Guard {
    pub fn new(client: Client, node: &str) -> Self {
        Self { client, node: node.into(), known: Arc::default() }
    }

    async fn allows(&self, token: &str, verb: &'static str) -> Result<(), Refusal> {
        let key = key(&(ring::digest::digest(&ring::digest::SHA256, token.as_bytes()), verb));
        if let Some(answer) = self.remembered(&key) {
            return answer;
        }
        let answer = self.ask(token, verb).await;
        // What could not be answered may be answered the next time.
        if !matches!(answer, Err(Refusal::Unanswered(_))) {
            self.remember(key, answer.clone());
        }
        answer
    }

    fn remembered(&self, key: &[u8]) -> Option<Result<(), Refusal>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, answer) = known.get(key)?;
        (since.elapsed() < REMEMBER).then(|| answer.clone())
    }

    fn remember(&self, key: Vec<u8>, answer: Result<(), Refusal>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (since, _)| since.elapsed() < REMEMBER);
        }
        if known.len() < MOST {
            known.insert(key, (Instant::now(), answer));
        }
    }

    async fn ask(&self, token: &str, verb: &'static str) -> Result<(), Refusal> {
        let unanswered = |error: ReviewError| Refusal::Unanswered(format!("failed to {error}"));
        let user = reviews::user(&self.client, token).await.map_err(unanswered)?.ok_or(Refusal::Unknown)?;
        if user.groups.iter().flatten().any(|group| group == MASTERS) {
            return Ok(());
        }
        let may = reviews::may(&self.client, &user, self.access(verb)).await.map_err(unanswered)?;
        if may { Ok(()) } else { Err(forbidden(&user, verb, &self.node)) }
    }

    fn access(&self, verb: &str) -> SubjectAccessReviewSpec {
        let attributes = ResourceAttributes {
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some("proxy".to_owned()),
            name: Some(self.node.to_string()),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        }
    }
}

fn key((digest, verb): &Key) -> Vec<u8> {
    [digest.as_ref(), verb.as_bytes()].concat()
}

fn forbidden(user: &UserInfo, verb: &str, node: &str) -> Refusal {
    let name = user.username.as_deref().unwrap_or_default();
    Refusal::Forbidden(format!(
        "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[proxy], node={node})"
    ))
}

/// The verb that authorization knows a method by.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Lets a request through, or answers it with a refusal.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|header| header.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, token)) = token else { return Refusal::Unknown.into_response() };
    match guard.allows(token.trim(), verb(request.method())).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[test]
    fn methods_have_verbs() {
        let cases = [("GET", "get"), ("POST", "create"), ("PUT", "update"), ("DELETE", "delete")];
        for (method, expected) in cases {
            assert_eq!(verb(&method.parse().unwrap()), expected);
        }
    }

    /// A node whose API server answers so, with its status code, what it is sent.
    fn guard(answer: fn(&str) -> (u16, String)) -> Guard {
        let service = tower::service_fn(move |request: http::Request<Body>| async move {
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let (code, text) = answer(&String::from_utf8_lossy(&sent));
            let answer = http::Response::builder().status(code).body(Body::from(text.into_bytes()));
            Ok::<_, tower::BoxError>(answer.unwrap())
        });
        Guard::new(Client::new(service, "default"), "n")
    }

    /// That token is joe's; `allowed`: whether he may.
    fn joes(sent: &str, allowed: bool) -> (u16, String) {
        let status = match sent.contains("SubjectAccessReview") {
            true => json!({ "allowed": allowed }),
            false => json!({ "authenticated": true, "user": { "username": "joe" } }),
        };
        (201, json!({ "status": status }).to_string())
    }

    #[tokio::test]
    async fn only_a_yes_is_a_yes() {
        assert_eq!(guard(|sent| joes(sent, true)).allows("t", "get").await, Ok(()));
        let text = "Forbidden (user=joe, verb=get, resource=nodes, subresource(s)=[proxy], node=n)";
        let answer = guard(|sent| joes(sent, false)).allows("t", "get").await;
        assert_eq!(answer, Err(Refusal::Forbidden(text.to_owned())));
        let nobody = guard(|_| (201, json!({ "status": { "authenticated": false } }).to_string()));
        assert_eq!(nobody.allows("t", "get").await, Err(Refusal::Unknown));
        let master = guard(|_| {
            let user = json!({ "groups": [MASTERS] });
            (201, json!({ "status": { "authenticated": true, "user": user } }).to_string())
        });
        assert_eq!(master.allows("t", "delete").await, Ok(()));
    }

    /// Whatever the API server says, and however much is logged.
    #[tokio::test]
    async fn a_token_reaches_neither_log_nor_answer() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone());
        let _logging = tracing::subscriber::set_default(subscriber.finish());
        for answer in [
            (|sent: &str| (201, sent.to_owned())) as fn(&str) -> (u16, String),
            |sent| (201, format!("{sent} and no JSON")),
            |sent| (400, json!({ "message": sent, "code": 400 }).to_string()),
            |sent| (500, sent.to_owned()),
        ] {
            let refusal = guard(answer).allows("very-secret", "get").await.unwrap_err();
            assert!(matches!(refusal, Refusal::Unanswered(_)), "{refusal:?}");
            assert!(!format!("{refusal:?}").contains("very-secret"), "{refusal:?}");
        }
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(!log.contains("very-secret"), "{log}");
    }

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
