//! Whom a bearer token stands for, and what that user may do, by the API server's word.
//!
//! The client's own ways log an answer that they cannot read, and one about a token has the token in it; so answers are read here.

use std::fmt::Display;
use std::time::Duration;

use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::client::Body;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest answer: it has the question in it.
const LARGEST: usize = 256 * 1024;

/// Why there is no answer. None of it holds a token, whatever the API server says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The API server does not answer.
    #[error("ask the API server: {0}")]
    Unreachable(String),
    /// It answers with a refusal.
    #[error("ask the API server: {code}{why}")]
    Refused {
        /// Its status code.
        code: u16,
        /// What it says, behind a colon, if it says anything.
        why: String,
    },
    /// Its answer is none.
    #[error("read the API server's answer")]
    Unreadable,
    /// It takes too long for whoever asks.
    #[error("ask the API server within {0:?}")]
    Late(Duration),
}

/// The user that a token stands for, if it does for any.
///
/// # Errors
/// Where there is no answer.
pub async fn user(client: &Client, token: &str) -> Result<Option<UserInfo>, ReviewError> {
    let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
    let review = TokenReview { spec, ..TokenReview::default() };
    let status: TokenReviewStatus = ask(client, &review).await.map_err(|error| without(error, token))?;
    // What it says beside that is why a token is not good.
    Ok(status.user.filter(|_| status.authenticated == Some(true)))
}

/// Whether a user may do what `asked` says, which names nobody.
///
/// # Errors
/// Where there is no answer.
pub async fn may(
    client: &Client,
    user: &UserInfo,
    asked: SubjectAccessReviewSpec,
) -> Result<bool, ReviewError> {
    let UserInfo { username, groups, uid, extra } = user.clone();
    let spec = SubjectAccessReviewSpec { user: username, groups, uid, extra, ..asked };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let status: SubjectAccessReviewStatus = ask(client, &review).await?;
    Ok(status.allowed && status.denied != Some(true))
}

/// The status of what the API server makes of a question.
async fn ask<Q, S>(client: &Client, review: &Q) -> Result<S, ReviewError>
where
    Q: Resource<DynamicType = ()> + Serialize,
    S: DeserializeOwned,
{
    #[derive(Deserialize)]
    struct Answer<S> {
        status: S,
    }
    let unreachable = |error: &dyn Display| ReviewError::Unreachable(error.to_string());
    let request = Request::post(Q::url_path(&(), None)).header(header::CONTENT_TYPE, "application/json");
    let question = serde_json::to_vec(review).map_err(|error| unreachable(&error))?;
    let request = request.body(Body::from(question)).map_err(|error| unreachable(&error))?;
    let answer = client.send(request).await;
    let (parts, body) = answer.map_err(|error| unreachable(&error))?.into_parts();
    let body = Limited::new(body, LARGEST).collect().await.map_err(|error| unreachable(&error))?;
    let body = body.to_bytes();
    if !parts.status.is_success() {
        return Err(ReviewError::Refused { code: parts.status.as_u16(), why: message(&body) });
    }
    let answer: Answer<S> = serde_json::from_slice(&body).map_err(|_| ReviewError::Unreadable)?;
    Ok(answer.status)
}

/// What a refusal says.
fn message(body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    said["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default()
}

/// The error without the token, should the API server have repeated it.
fn without(error: ReviewError, token: &str) -> ReviewError {
    match error {
        ReviewError::Refused { code, why } => {
            ReviewError::Refused { code, why: why.replace(token, "(the token)") }
        }
        other => other,
    }
}
