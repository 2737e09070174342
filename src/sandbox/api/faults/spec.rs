//! What an administrator asks for: which faults, how often, for whom.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Request;
use crate::sandbox::object::FieldError;

/// Statuses that can be answered in the place of an answer.
pub const STATUSES: [u16; 5] = [409, 429, 500, 503, 504];
/// Longest latency: more than any client waits.
const MAX_MILLIS: u64 = 10 * 60 * 1000;

/// The faults of an API server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultSpec {
    /// How much later every request is handled.
    #[serde(skip_serializing_if = "is_default")]
    pub latency_ms: u64,
    /// How much later still at most, by chance.
    #[serde(skip_serializing_if = "is_default")]
    pub jitter_ms: u64,
    /// Errors in the place of answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorRate>,
    /// The chance of each open watch to be cut off, each second.
    #[serde(skip_serializing_if = "is_default")]
    pub watch_drop_rate: f64,
    /// The chance of each open watch to end with 410 Expired, each second.
    #[serde(skip_serializing_if = "is_default")]
    pub watch_expire_rate: f64,
    /// Whether watches stay open and say nothing, not even that they end.
    #[serde(skip_serializing_if = "is_default")]
    pub watch_stall: bool,
    /// Ends every open watch with 410 Expired, once, and refuses to resume from what was before.
    #[serde(skip_serializing_if = "is_default")]
    pub expire_watches: bool,
    /// Whether nobody is there at all.
    #[serde(skip_serializing_if = "Outage::is_none")]
    pub outage: Outage,
    /// What chance begins with: the same seed strikes the same requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// After how long the faults clear themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Which requests are meant; all where nothing is said.
    #[serde(rename = "for", skip_serializing_if = "is_default")]
    pub target: Selection,
}

/// An error and how often it comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorRate {
    /// The HTTP status.
    pub status: u16,
    /// How often, from 0 to 1.
    pub rate: f64,
    /// Whether a write takes effect although it is answered with the error.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: bool,
    /// When the client is told to come back; 429 always tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// How an API server is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OutageWord", rename_all = "lowercase")]
pub enum Outage {
    /// It is there.
    #[default]
    None,
    /// Its port is closed.
    Refuse,
    /// Its port is open, and every connection is reset at its first request.
    Reset,
}

/// As it may be written: also as true and false.
#[derive(Deserialize)]
#[serde(untagged, expecting = "outage is \"refuse\", \"reset\", true or false")]
enum OutageWord {
    Flag(bool),
    Mode(OutageMode),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutageMode {
    None,
    Refuse,
    Reset,
}

impl From<OutageWord> for Outage {
    fn from(word: OutageWord) -> Self {
        match word {
            OutageWord::Flag(false) | OutageWord::Mode(OutageMode::None) => Self::None,
            OutageWord::Flag(true) | OutageWord::Mode(OutageMode::Refuse) => Self::Refuse,
            OutageWord::Mode(OutageMode::Reset) => Self::Reset,
        }
    }
}

impl Outage {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Which requests are meant: those that fit every list that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Selection {
    /// User names; a `*` at the end stands for any rest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Verbs as RBAC has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    /// `pods`, `statefulsets.apps`: with their subresources; `pods/status`: that one alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
}

/// The verbs that a request can have.
pub const VERBS: [&str; 8] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl FaultSpec {
    /// Whether anything is asked for.
    pub fn is_empty(&self) -> bool {
        let bare = Self { seed: None, duration_ms: None, target: Selection::default(), ..self.clone() };
        bare == Self::default()
    }

    /// What is wrong with it.
    pub fn check(&self) -> Vec<FieldError> {
        let mut wrong = Vec::new();
        let mut rate = |field: String, rate: f64| {
            if !(0.0..=1.0).contains(&rate) {
                wrong.push(FieldError::invalid(field, &json!(rate), "must be from 0 to 1"));
            }
        };
        rate("watchDropRate".into(), self.watch_drop_rate);
        rate("watchExpireRate".into(), self.watch_expire_rate);
        for (index, error) in self.errors.iter().enumerate() {
            rate(format!("errors[{index}].rate"), error.rate);
        }
        let sum: f64 = self.errors.iter().map(|error| error.rate).sum();
        if wrong.is_empty() && sum > 1.0 + f64::EPSILON {
            wrong.push(FieldError::invalid(
                "errors",
                &json!(sum),
                "the rates must not add up to more than 1",
            ));
        }
        for (index, error) in self.errors.iter().enumerate() {
            if !STATUSES.contains(&error.status) {
                let allowed = STATUSES.map(|status| status.to_string());
                let field = format!("errors[{index}].status");
                let allowed = allowed.iter().map(String::as_str);
                wrong.push(FieldError::not_supported(field, &json!(error.status), allowed));
            }
        }
        for (field, millis) in [("latencyMs", self.latency_ms), ("jitterMs", self.jitter_ms)] {
            if millis > MAX_MILLIS {
                wrong.push(FieldError::invalid(field, &json!(millis), "must be at most 600000: ten minutes"));
            }
        }
        if self.duration_ms == Some(0) {
            wrong.push(FieldError::invalid("durationMs", &json!(0), "must be greater than 0"));
        }
        for (index, verb) in self.target.verbs.iter().enumerate() {
            if verb != "*" && !VERBS.contains(&verb.as_str()) {
                wrong.push(FieldError::not_supported(format!("for.verbs[{index}]"), &json!(verb), VERBS));
            }
        }
        if self.outage == Outage::Refuse && self.target != Selection::default() {
            let why = "a closed port is closed to everybody: use \"reset\" to choose whose requests fail";
            wrong.push(FieldError::invalid("outage", &json!("refuse"), why));
        }
        wrong
    }
}

impl Selection {
    /// Whether a request is meant.
    pub fn matches(&self, request: &Request) -> bool {
        let any = |list: &[String], fits: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|entry| entry == "*" || fits(entry))
        };
        any(&self.users, &|user| match user.strip_suffix('*') {
            Some(start) => request.user.starts_with(start),
            None => *user == *request.user,
        }) && any(&self.verbs, &|verb| verb == request.verb)
            && any(&self.resources, &|resource| request.is_of(resource))
    }
}

impl Request {
    /// Whether a resource, named as in a selection, is what it is about.
    fn is_of(&self, resource: &str) -> bool {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (resource, None),
        };
        let (plural, group) = match resource.split_once('.') {
            Some((plural, group)) => (plural, Some(group)),
            None => (resource, None),
        };
        *plural == *self.resource
            && group.is_none_or(|group| *group == *self.group)
            && subresource.is_none_or(|wanted| wanted == "*" || *wanted == *self.subresource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(user: &str, verb: &'static str, what: [&str; 3]) -> Request {
        let [group, resource, subresource] = what.map(Into::into);
        Request { user: user.into(), verb, group, resource, subresource, name: String::new() }
    }

    #[test]
    fn selections() {
        let pod = request("system:node:a", "get", ["", "pods", ""]);
        let status = request("system:node:a", "patch", ["", "pods", "status"]);
        let set = request("me", "list", ["apps", "statefulsets", ""]);
        let discovery = request("me", "get", ["", "", ""]);
        let all = [&pod, &status, &set, &discovery];
        let cases = [
            (json!({}), [true, true, true, true]),
            (json!({"users": ["system:node:*"]}), [true, true, false, false]),
            (json!({"users": ["me"], "verbs": ["list"]}), [false, false, true, false]),
            (json!({"resources": ["pods"]}), [true, true, false, false]),
            (json!({"resources": ["pods/status"]}), [false, true, false, false]),
            (json!({"resources": ["statefulsets.apps"]}), [false, false, true, false]),
            (json!({"resources": ["statefulsets.batch"]}), [false; 4]),
            (json!({"resources": ["*"], "verbs": ["get"]}), [true, false, false, true]),
        ];
        for (text, expected) in cases {
            let selection: Selection = serde_json::from_value(text.clone()).unwrap();
            assert_eq!(all.map(|request| selection.matches(request)), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        let cases = [
            (json!({"errors": [{"status": 418, "rate": 0.1}]}), "errors[0].status"),
            (json!({"errors": [{"status": 500, "rate": 1.5}]}), "errors[0].rate"),
            (json!({"errors": [{"status": 500, "rate": 0.7}, {"status": 409, "rate": 0.7}]}), "errors"),
            (json!({"watchDropRate": -0.1}), "watchDropRate"),
            (json!({"latencyMs": 6_000_000}), "latencyMs"),
            (json!({"durationMs": 0}), "durationMs"),
            (json!({"for": {"verbs": ["eat"]}}), "for.verbs[0]"),
            (json!({"outage": true, "for": {"users": ["a"]}}), "outage"),
        ];
        for (text, field) in cases {
            let spec: FaultSpec = serde_json::from_value(text.clone()).unwrap();
            let wrong: Vec<_> = spec.check().into_iter().map(|error| error.field).collect();
            assert_eq!(wrong, [field], "{text}");
        }
    }

    #[test]
    fn an_outage_has_several_spellings() {
        for (text, expected) in
            [("true", Outage::Refuse), ("false", Outage::None), ("\"reset\"", Outage::Reset)]
        {
            assert_eq!(serde_json::from_str::<Outage>(text).unwrap(), expected);
        }
        assert!(serde_json::from_str::<Outage>("\"503\"").is_err());
        let spec = FaultSpec { outage: Outage::Reset, ..Default::default() };
        assert_eq!(serde_json::to_string(&spec).unwrap(), r#"{"outage":"reset"}"#);
    }
}
