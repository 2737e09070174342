//! Which requests something is done to, and what.

use std::ops::{Bound, RangeBounds};

use http::Method;

/// What a store answers instead of doing what it is asked: a status, and S3's code in the body.
///
/// See <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: &'static str,
}

impl Refusal {
    /// A failure of the service.
    pub const INTERNAL: Self = Self {
        status: 500,
        code: "InternalError",
        message: "We encountered an internal error. Please try again.",
    };
    /// Too many requests.
    pub const SLOW_DOWN: Self =
        Self { status: 503, code: "SlowDown", message: "Please reduce your request rate." };
    /// Two conditional writes of one key at the same time.
    pub const CONFLICT: Self = Self {
        status: 409,
        code: "ConditionalRequestConflict",
        message: "The conditional request cannot succeed due to a conflicting operation against this resource.",
    };
    /// The condition does not hold: the object is there.
    pub const PRECONDITION: Self = Self {
        status: 412,
        code: "PreconditionFailed",
        message: "At least one of the pre-conditions you specified did not hold",
    };
    /// The client's clock is off by more than 15 minutes.
    pub const SKEWED: Self = Self {
        status: 403,
        code: "RequestTimeTooSkewed",
        message: "The difference between the request time and the current time is too large.",
    };
    /// A token that was valid until a while ago.
    pub const EXPIRED: Self =
        Self { status: 400, code: "ExpiredToken", message: "The provided token has expired." };
}

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Takes all of the request, answers that, and asks no store.
    Refuse(Refusal),
    /// The same before it has read the body, and closes the connection.
    RefuseUnread(Refusal),
    /// Never answers.
    Hang,
    /// Resets the connection; no store was asked.
    ResetBefore,
    /// The store has done it, and the connection is reset before the answer.
    ResetAfter,
    /// Ends the answer's body after so many bytes, of which its head promises more.
    Truncate(u64),
    /// Turns one bit of that byte of the answer's body, or of its last if it is shorter.
    Flip(u64),
    /// So many bytes in a second in either direction.
    Slow(u32),
}

/// Does something to some requests. Requests are counted from one, by each rule for itself, from when it was set.
#[derive(Clone, Debug)]
pub struct Rule {
    method: Option<Method>,
    key: String,
    nth: (Bound<u64>, Bound<u64>),
    action: Action,
    seen: u64,
}

impl Rule {
    /// For every request.
    pub fn new(action: Action) -> Self {
        let nth = (Bound::Unbounded, Bound::Unbounded);
        Self { method: None, key: String::new(), nth, action, seen: 0 }
    }

    /// Only for that method.
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only where path and query (`/bucket/key?query`, decoded) contain that.
    pub fn key(mut self, text: &str) -> Self {
        text.clone_into(&mut self.key);
        self
    }

    /// Only for these of the requests that the rest of the rule is for: `2..=3` for the second and the third.
    pub fn nth(mut self, range: impl RangeBounds<u64>) -> Self {
        self.nth = (range.start_bound().cloned(), range.end_bound().cloned());
        self
    }

    /// Only for the first of them.
    pub fn once(self) -> Self {
        self.nth(1..=1)
    }
}

/// What to do to a request: what the first rule says that is for it. All rules that it could be for count it.
pub(super) fn choose(rules: &mut [Rule], method: &Method, key: &str) -> Option<Action> {
    let mut chosen = None;
    for rule in rules {
        if rule.method.as_ref().is_none_or(|wanted| wanted == method) && key.contains(&rule.key) {
            rule.seen += 1;
            if chosen.is_none() && rule.nth.contains(&rule.seen) {
                chosen = Some(rule.action);
            }
        }
    }
    chosen
}

impl std::fmt::Display for Action {
    /// One word: a refusal's code, or the fault's name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refuse(refusal) | Self::RefuseUnread(refusal) => f.write_str(refusal.code),
            other => f.write_str(format!("{other:?}").split('(').next().unwrap_or_default()),
        }
    }
}

#[test]
fn rules_count_for_themselves_and_the_first_one_wins() {
    let mut rules = [
        Rule::new(Action::Hang).method(Method::PUT).key("wal/").nth(2..=3),
        Rule::new(Action::ResetAfter).key("wal/").nth(4..),
        Rule::new(Action::ResetBefore).once(),
    ];
    let mut ask = |method, key| choose(&mut rules, &method, key);
    assert_eq!(ask(Method::GET, "/b/base/1"), Some(Action::ResetBefore));
    assert_eq!(ask(Method::PUT, "/b/wal/1"), None);
    assert_eq!(ask(Method::GET, "/b/wal/1"), None);
    assert_eq!(ask(Method::PUT, "/b/wal/2"), Some(Action::Hang));
    // Both are for it.
    assert_eq!(ask(Method::PUT, "/b/wal/3"), Some(Action::Hang));
    assert_eq!(ask(Method::PUT, "/b/wal/4"), Some(Action::ResetAfter));
    assert_eq!(ask(Method::PUT, "/b/base/2"), None);
}
