//! What a store says when it says no, in its own words.

use std::error::Error as _;
use std::time::Duration;

/// Why a store did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The settings do not make a store.
    #[error("use the settings of {destination}: {problem}")]
    Settings {
        /// The destination.
        destination: String,
        /// What is wrong with them.
        problem: String,
    },
    /// The credentials are wrong, have expired, or do not allow it.
    #[error("{doing}: {words}")]
    Denied {
        /// What was tried, on what.
        doing: String,
        /// The store's words.
        words: String,
    },
    /// The bucket is not there.
    #[error("{doing}: {words}")]
    Missing {
        /// What was tried, on what.
        doing: String,
        /// The store's words.
        words: String,
    },
    /// Anything else: it cannot be reached, or has a bad day.
    #[error("{doing}: {words}")]
    Failed {
        /// What was tried, on what.
        doing: String,
        /// The store's words.
        words: String,
    },
    /// No answer in time.
    #[error("{doing}: no answer within {} s", .limit.as_secs())]
    Late {
        /// What was tried, on what.
        doing: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// What came is not what was stored.
    #[error("read {key}: {problem}")]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl StoreError {
    /// What the library says, for something that was tried.
    pub(super) fn of(doing: String, error: &object_store::Error) -> Self {
        let words = words(error);
        match error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied { doing, words }
            }
            object_store::Error::NotFound { .. } => Self::Missing { doing, words },
            // The library tells these apart only for some requests.
            _ if DENIED.iter().any(|code| words.starts_with(code)) => Self::Denied { doing, words },
            _ if words.starts_with(NO_BUCKET) => Self::Missing { doing, words },
            _ => Self::Failed { doing, words },
        }
    }
}

/// How stores begin when credentials are wrong, have expired or do not allow it.
const DENIED: [&str; 9] = [
    "AccessDenied",
    "AllAccessDisabled",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NotSignedUp",
    "SignatureDoesNotMatch",
];
/// And when there is no such bucket.
const NO_BUCKET: &str = "NoSuchBucket";

/// The store's own words: code and message of an S3 or Azure answer, else what is at the bottom of the chain of errors.
fn words(error: &object_store::Error) -> String {
    let whole = error.to_string();
    if let Some(answer) = answer(&whole).or_else(|| deletion(&whole)) {
        return answer;
    }
    let mut deepest = error.source();
    while let Some(source) = deepest.and_then(std::error::Error::source) {
        deepest = Some(source);
    }
    let bottom = deepest.map_or_else(|| whole.clone(), ToString::to_string);
    match status(&whole) {
        Some(status) if !bottom.contains(status) => format!("{status}: {bottom}"),
        _ => bottom,
    }
}

/// `Code: Message` of an XML answer (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).
fn answer(text: &str) -> Option<String> {
    let part = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inside, _) = rest.split_once(&format!("</{name}>"))?;
        // Azure puts a request's id and time on further lines.
        Some(inside.lines().next().unwrap_or_default().trim()).filter(|inside| !inside.is_empty())
    };
    match (part("Code"), part("Message")) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (Some(only), None) | (None, Some(only)) => Some(only.to_owned()),
        (None, None) => None,
    }
}

/// What is said of one of several objects that were to be deleted at once: `… : Message (code: Code)`.
fn deletion(text: &str) -> Option<String> {
    let (before, code) = text.strip_suffix(')')?.rsplit_once(" (code: ")?;
    let message = before.rsplit(": ").next()?;
    Some(format!("{code}: {message}"))
}

fn status(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.split(':').next().map(str::trim).filter(|status| !status.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stores_own_words_are_found() {
        let s3 = "Error performing PUT http://x/b/k in 3ms - Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
        assert_eq!(answer(s3).as_deref(), Some("ExpiredToken: The provided token has expired."));
        let azure = "<Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.\nRequestId:1</Message></Error>";
        assert_eq!(
            answer(azure).as_deref(),
            Some("AuthenticationFailed: Server failed to authenticate the request.")
        );
        assert_eq!(answer("<Error><Code>SlowDown</Code></Error>").as_deref(), Some("SlowDown"));
        assert_eq!(answer("connection refused"), None);
        let deleted =
            "Generic S3 error: DeleteObjects request failed for key p/a: Access Denied (code: AccessDenied)";
        assert_eq!(deletion(deleted).as_deref(), Some("AccessDenied: Access Denied"));
        assert_eq!(
            status("Server returned non-2xx status code: 503 Service Unavailable: "),
            Some("503 Service Unavailable")
        );
    }
}
