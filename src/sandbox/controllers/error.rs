//! Why a controller, or one pass of it, could not go on.

/// Why the controllers ended before they were asked to.
#[derive(Debug, thiserror::Error)]
pub enum ControllersError {
    /// A part ended that runs for as long as the process does.
    #[error("keep the {part} going: {source}")]
    Ended {
        /// Which one.
        part: &'static str,
        /// How it ended.
        source: tokio::task::JoinError,
    },
}

/// Why one object could not be brought to where it should be; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server said no, or did not answer.
    #[error("reach agreement with the API server: {0}")]
    Api(#[source] Box<kube::Error>),
    /// An object does not have the form it needs.
    #[error("make sense of {what}: {reason}")]
    Malformed {
        /// The object or field.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object could not be written as JSON.
    #[error("write an object as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<kube::Error> for ReconcileError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl ReconcileError {
    /// Whether somebody else was faster: a matter of looking again, not of anything being wrong.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(error) if is_conflict(error))
    }
}

/// The object is not there.
pub(super) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The object has changed meanwhile, or is there already.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// One of that name is there already: what a creation wanted, where the name says all. Not any conflict: the other kinds
/// leave nothing made.
pub(super) fn is_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// The answer to a write that may find its work done: a missing object is what a deletion wanted.
pub(super) fn absent_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
