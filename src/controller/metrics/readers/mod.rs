//! Who may read metrics: whoever's bearer token the API server knows, and whom it lets get `/metrics`.
//!
//! It is asked both, whom a token stands for and what that user may. An answer counts for a short time, so that a token or a right
//! that is taken back soon opens nothing any more. Where there is no answer, nobody is let in.

mod answers;
mod reviews;
#[cfg(test)]
pub mod tests;
mod token;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::UserInfo;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::install::METRICS_READER;
use crate::reviews::ReviewError;
use answers::{Answers, Verdict};
pub use reviews::{ApiServer, PATH, Reviewer};
use token::Token;

/// How long a request may wait for the API server's answers. Prometheus itself waits for ten seconds.
const LIMIT: Duration = Duration::from_secs(5);
/// How many requests ask the API server at a time: whoever reaches the port can have it asked.
const ASKING: usize = 4;
/// How often it is logged at most that it could not be asked.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It brings no token, or one that nobody knows.
    Unknown,
    /// Its user may not.
    Forbidden(String),
    /// Nobody can tell.
    Unanswered,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => {
                let how = [(header::WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, how, "a token that this cluster knows is needed\n").into_response()
            }
            Self::Forbidden(user) => {
                let text = format!("{user:?} may not get {PATH}: ClusterRole {METRICS_READER} allows it\n");
                (StatusCode::FORBIDDEN, text).into_response()
            }
            // Why is for the log: whoever asks may be anybody.
            Self::Unanswered => {
                let text = "the API server could not be asked who may read this\n";
                (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
            }
        }
    }
}

/// Time since some moment; it never goes back.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Knows who may read, by asking somebody.
pub struct Readers<R> {
    reviewer: R,
    clock: Clock,
    answers: Mutex<Answers>,
    asking: Semaphore,
    complained: Mutex<Option<Duration>>,
}

impl<R: Reviewer> Readers<R> {
    /// Asks that one.
    pub fn new(reviewer: R, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            reviewer,
            clock: Box::new(clock),
            answers: Mutex::default(),
            asking: Semaphore::new(ASKING),
            complained: Mutex::default(),
        }
    }

    /// Whether a request with those headers is to be answered.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = Token::of(headers).ok_or(Refusal::Unknown)?;
        let verdict = match self.remembered(&token) {
            Some(verdict) => verdict,
            None => self.ask_in_time(&token).await?,
        };
        match verdict {
            Verdict::Allowed => Ok(()),
            Verdict::Unknown => Err(Refusal::Unknown),
            Verdict::Forbidden(user) => Err(Refusal::Forbidden(user)),
        }
    }

    fn remembered(&self, token: &Token) -> Option<Verdict> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&token.key(), (self.clock)())
    }

    async fn ask_in_time(&self, token: &Token) -> Result<Verdict, Refusal> {
        let asked = timeout(LIMIT, self.ask_in_turn(token)).await;
        asked.unwrap_or(Err(ReviewError::Late(LIMIT))).map_err(|error| {
            self.complain(&error);
            Refusal::Unanswered
        })
    }

    async fn ask_in_turn(&self, token: &Token) -> Result<Verdict, ReviewError> {
        // It is never closed.
        let _turn = self.asking.acquire().await.map_err(|_| ReviewError::Late(LIMIT))?;
        // Another request may have brought the same token meanwhile.
        if let Some(verdict) = self.remembered(token) {
            return Ok(verdict);
        }
        // An answer is as old as the question.
        let since = (self.clock)();
        let verdict = self.ask(token).await?;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.put(token.key(), verdict.clone(), since);
        Ok(verdict)
    }

    async fn ask(&self, token: &Token) -> Result<Verdict, ReviewError> {
        let Some(user) = self.reviewer.user(token).await? else { return Ok(Verdict::Unknown) };
        if self.reviewer.may_read(&user).await? {
            return Ok(Verdict::Allowed);
        }
        Ok(Verdict::Forbidden(name(user)))
    }

    /// Tells why nobody was let in, now and then: anybody can bring it about.
    fn complain(&self, error: &ReviewError) {
        let now = (self.clock)();
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| now.saturating_sub(last) >= COMPLAINT) {
            *complained = Some(now);
            tracing::warn!("failed to tell who may read metrics: {error}");
        }
    }
}

fn name(user: UserInfo) -> String {
    user.username.unwrap_or_default()
}
