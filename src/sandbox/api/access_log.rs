//! What was asked by whom, and what came of it, in numbers: `GET /debug/access`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::value_response;
use super::rbac::Attributes;

/// The path at which it is read.
pub const PATH: &str = "/debug/access";
/// How many different questions are kept apart; later ones are not told by their namespace, and then not at all.
const MOST: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Entry {
    user: String,
    asked: Attributes,
    allowed: bool,
    /// The hundreds of the status code.
    class: u16,
}

/// The numbers.
#[derive(Debug, Default)]
pub struct AccessLog(Mutex<HashMap<Entry, u64>>);

impl AccessLog {
    /// Counts a request; whose, is not known where the user's name is empty.
    pub fn count(&self, user: &str, asked: Attributes, allowed: bool, status: StatusCode) {
        // One line for all objects of a kind.
        let asked = Attributes { name: String::new(), version: String::new(), ..asked };
        let mut entry = Entry { user: user.to_owned(), asked, allowed, class: status.as_u16() / 100 };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MOST && !counts.contains_key(&entry) {
            entry.asked.namespace.clear();
            if counts.len() >= 2 * MOST && !counts.contains_key(&entry) {
                return;
            }
        }
        *counts.entry(entry).or_default() += 1;
    }

    /// All numbers, as a list.
    pub fn answer(&self) -> Response {
        let mut counts: Vec<(Entry, u64)> = {
            let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            counts.iter().map(|(entry, count)| (entry.clone(), *count)).collect()
        };
        counts.sort();
        let lines: Vec<Value> = counts.iter().map(|(entry, count)| line(entry, *count)).collect();
        value_response(StatusCode::OK, &Value::Array(lines))
    }
}

fn line(entry: &Entry, count: u64) -> Value {
    let Entry { user, asked, allowed, class } = entry;
    let mut line = json!({ "user": user, "verb": asked.verb });
    if asked.path.is_empty() {
        line["group"] = json!(asked.group);
        line["resource"] = json!(asked.resource);
        line["subresource"] = json!(asked.subresource);
        line["namespace"] = json!(asked.namespace);
    } else {
        line["path"] = json!(asked.path);
    }
    line["allowed"] = json!(allowed);
    line["code"] = json!(format!("{class}xx"));
    line["count"] = json!(count);
    line
}
