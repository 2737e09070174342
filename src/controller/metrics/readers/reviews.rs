//! What the API server is asked of a reader.

use std::time::Duration;

use async_trait::async_trait;
use axum::http::{Request, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::client::Body;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::token::Token;

/// What readers must be allowed to get.
pub const PATH: &str = "/metrics";
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
    /// It takes too long.
    #[error("ask the API server within {0:?}")]
    Late(Duration),
}

/// Whoever knows users and their rights.
#[async_trait]
pub trait Reviewer: Send + Sync + 'static {
    /// The user that a token stands for, if it does for any.
    ///
    /// # Errors
    /// Where there is no answer.
    async fn user(&self, token: &Token) -> Result<Option<UserInfo>, ReviewError>;

    /// Whether a user may read metrics.
    ///
    /// # Errors
    /// Where there is no answer.
    async fn may_read(&self, user: &UserInfo) -> Result<bool, ReviewError>;
}

/// The API server.
pub struct ApiServer(pub Client);

#[async_trait]
impl Reviewer for ApiServer {
    async fn user(&self, token: &Token) -> Result<Option<UserInfo>, ReviewError> {
        let spec = TokenReviewSpec { token: token.expose().to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let path = TokenReview::url_path(&(), None);
        let status: TokenReviewStatus =
            self.ask(&path, &review).await.map_err(|error| without(error, token))?;
        // What it says beside that is why a token is not good.
        Ok(status.user.filter(|_| status.authenticated == Some(true)))
    }

    async fn may_read(&self, user: &UserInfo) -> Result<bool, ReviewError> {
        let asked = NonResourceAttributes { path: Some(PATH.to_owned()), verb: Some("get".to_owned()) };
        let UserInfo { username, groups, uid, extra } = user.clone();
        let spec = SubjectAccessReviewSpec {
            user: username,
            groups,
            uid,
            extra,
            non_resource_attributes: Some(asked),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let path = SubjectAccessReview::url_path(&(), None);
        let status: SubjectAccessReviewStatus = self.ask(&path, &review).await?;
        Ok(status.allowed && status.denied != Some(true))
    }
}

impl ApiServer {
    /// The status of what it makes of a question. The client's own ways log an answer that they cannot read, and this one has
    /// the token in it; so it is read here.
    async fn ask<S: DeserializeOwned>(&self, path: &str, review: &impl Serialize) -> Result<S, ReviewError> {
        #[derive(Deserialize)]
        struct Answer<S> {
            status: S,
        }
        let unreachable = |error: &dyn std::fmt::Display| ReviewError::Unreachable(error.to_string());
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let question = serde_json::to_vec(review).map_err(|error| unreachable(&error))?;
        let request = request.body(Body::from(question)).map_err(|error| unreachable(&error))?;
        let answer = self.0.send(request).await;
        let (parts, body) = answer.map_err(|error| unreachable(&error))?.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(|error| unreachable(&error))?;
        let body = body.to_bytes();
        if !parts.status.is_success() {
            return Err(ReviewError::Refused { code: parts.status.as_u16(), why: message(&body) });
        }
        let answer: Answer<S> = serde_json::from_slice(&body).map_err(|_| ReviewError::Unreadable)?;
        Ok(answer.status)
    }
}

/// What a refusal says.
fn message(body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    said["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default()
}

/// The error without the token, should the API server have repeated it.
fn without(error: ReviewError, token: &Token) -> ReviewError {
    match error {
        ReviewError::Refused { code, why } => {
            ReviewError::Refused { code, why: why.replace(token.expose(), "(the token)") }
        }
        other => other,
    }
}
