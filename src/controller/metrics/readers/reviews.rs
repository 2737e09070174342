//! What the API server is asked of a reader.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReviewSpec};
use kube::Client;

use super::token::Token;
use crate::reviews::{self, ReviewError};

/// What readers must be allowed to get.
pub const PATH: &str = "/metrics";

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
        reviews::user(&self.0, token.expose()).await
    }

    async fn may_read(&self, user: &UserInfo) -> Result<bool, ReviewError> {
        let asked = NonResourceAttributes { path: Some(PATH.to_owned()), verb: Some("get".to_owned()) };
        let asked = SubjectAccessReviewSpec {
            non_resource_attributes: Some(asked),
            ..SubjectAccessReviewSpec::default()
        };
        reviews::may(&self.0, user, asked).await
    }
}
