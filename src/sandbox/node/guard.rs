//! Who may ask a node: a bearer token is reviewed by the API server, and so is what its user may do, as kubelets have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

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
        let unanswered =
            |error: kube::Error| Refusal::Unanswered(format!("failed to ask who calls: {error}"));
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await.map_err(unanswered)?;
        let status = review.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).ok_or(Refusal::Unknown)?;
        if user.groups.iter().flatten().any(|group| group == MASTERS) {
            return Ok(());
        }
        let review = self.access(&user, verb);
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await.map_err(unanswered)?;
        decide(review.status, &user, verb, &self.node)
    }

    fn access(&self, user: &UserInfo, verb: &str) -> SubjectAccessReview {
        let attributes = ResourceAttributes {
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some("proxy".to_owned()),
            name: Some(self.node.to_string()),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        SubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None }
    }
}

fn key((digest, verb): &Key) -> Vec<u8> {
    [digest.as_ref(), verb.as_bytes()].concat()
}

fn decide(
    status: Option<SubjectAccessReviewStatus>,
    user: &UserInfo,
    verb: &str,
    node: &str,
) -> Result<(), Refusal> {
    if status.is_some_and(|status| status.allowed) {
        return Ok(());
    }
    let name = user.username.as_deref().unwrap_or_default();
    Err(Refusal::Forbidden(format!(
        "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[proxy], node={node})"
    )))
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
    use super::*;

    #[test]
    fn methods_have_verbs() {
        let cases = [("GET", "get"), ("POST", "create"), ("PUT", "update"), ("DELETE", "delete")];
        for (method, expected) in cases {
            assert_eq!(verb(&method.parse().unwrap()), expected);
        }
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        let user = UserInfo { username: Some("joe".to_owned()), ..UserInfo::default() };
        let status = |allowed| Some(SubjectAccessReviewStatus { allowed, ..Default::default() });
        assert_eq!(decide(status(true), &user, "get", "n"), Ok(()));
        let text = "Forbidden (user=joe, verb=get, resource=nodes, subresource(s)=[proxy], node=n)";
        assert_eq!(decide(status(false), &user, "get", "n"), Err(Refusal::Forbidden(text.to_owned())));
        assert!(decide(None, &user, "get", "n").is_err());
    }
}
