//! The part of JSONPath that printer columns use: fields, quoted fields, indexes, wildcards, and filters that compare
//! a field of an item with a value.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items whose field (path in the item) compares so with the value.
    Filter(Vec<Step>, Compare, Value),
    /// Items that have a field.
    Has(Vec<Step>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer operators first.
const COMPARISONS: [(&str, Compare); 6] = [
    ("==", Compare::Equal),
    ("!=", Compare::NotEqual),
    ("<=", Compare::LessOrEqual),
    (">=", Compare::GreaterOrEqual),
    ("<", Compare::Less),
    (">", Compare::Greater),
];

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`; None if it cannot be read.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let text = text.strip_prefix('$').unwrap_or(text);
        steps(text).map(Self)
    }

    /// All values it leads to.
    pub(super) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        follow(&self.0, vec![value])
    }
}

fn steps(mut text: &str) -> Option<Vec<Step>> {
    let mut found = Vec::new();
    while !text.is_empty() {
        if let Some(rest) = text.strip_prefix('[') {
            let end = closing(rest)?;
            found.push(bracket(&rest[..end])?);
            text = &rest[end + 1..];
            continue;
        }
        let rest = text.strip_prefix('.').unwrap_or(text);
        let (name, after) = field(rest);
        if name.is_empty() && !after.starts_with('[') {
            return None;
        }
        if name == "*" {
            found.push(Step::All);
        } else if !name.is_empty() {
            found.push(Step::Field(name));
        }
        text = after;
    }
    Some(found)
}

/// A field's name, in which a backslash keeps the next character from ending it.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return (name, &text[at..]),
            other => {
                name.push(other);
                escaped = false;
            }
        }
    }
    (name, "")
}

/// Where a bracket closes, past quotes and inner brackets.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), found) if open == found => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquoted(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(condition) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filter(condition.trim());
    }
    text.parse().ok().map(Step::Index)
}

fn filter(condition: &str) -> Option<Step> {
    let path = |text: &str| steps(text.trim().strip_prefix('@')?);
    let found = COMPARISONS.iter().filter_map(|(sign, compare)| Some((condition.find(sign)?, sign, compare)));
    let Some((at, sign, compare)) = found.min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len())) else {
        return path(condition).map(Step::Has);
    };
    let right = condition[at + sign.len()..].trim();
    let value = match unquoted(right) {
        Some(text) => Value::String(text.to_owned()),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Filter(path(&condition[..at])?, *compare, value))
}

fn follow<'a>(steps: &[Step], mut values: Vec<&'a Value>) -> Vec<&'a Value> {
    for step in steps {
        values = values.into_iter().flat_map(|value| take(step, value)).collect();
    }
    values
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let length = i64::try_from(items.len()).unwrap_or_default();
            let at = if *index < 0 { length + index } else { *index };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        Step::All => match value.as_object() {
            Some(fields) => fields.values().collect(),
            None => items.iter().collect(),
        },
        Step::Has(path) => items.iter().filter(|item| !follow(path, vec![item]).is_empty()).collect(),
        Step::Filter(path, compare, wanted) => items
            .iter()
            .filter(|item| {
                follow(path, vec![item]).first().is_some_and(|found| holds(found, *compare, wanted))
            })
            .collect(),
    }
}

fn holds(found: &Value, compare: Compare, wanted: &Value) -> bool {
    let order = match (found, wanted) {
        (Value::String(found), Value::String(wanted)) => Some(found.cmp(wanted)),
        _ => found.as_f64().zip(wanted.as_f64()).and_then(|(found, wanted)| found.partial_cmp(&wanted)),
    };
    match compare {
        Compare::Equal => found == wanted,
        Compare::NotEqual => found != wanted,
        Compare::Less => order.is_some_and(|order| order.is_lt()),
        Compare::LessOrEqual => order.is_some_and(|order| order.is_le()),
        Compare::Greater => order.is_some_and(|order| order.is_gt()),
        Compare::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
    }
}
