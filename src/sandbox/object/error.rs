//! Field errors and the `Status` bodies made of them.

use serde_json::{Value, json};

/// Why a field was refused; [`Cause::as_str`] is the machine-readable reason in `details.causes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The value breaks a rule.
    Invalid,
    /// The value has the wrong type.
    TypeInvalid,
    /// The value must be there.
    Required,
    /// The value is not one of those allowed.
    NotSupported,
    /// The value is there twice.
    Duplicate,
    /// The field may not be set, or not be changed.
    Forbidden,
    /// What the value names does not exist.
    NotFound,
    /// The text is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The check itself could not be made.
    Internal,
}

impl Cause {
    /// The reason as `details.causes[].reason` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Required => "FieldValueRequired",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
        }
    }

    /// The words that open the message.
    fn title(self) -> &'static str {
        match self {
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Required => "Required value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One field that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `spec.containers[0].name`; `<nil>` for a rule at the root.
    pub field: String,
    /// Why.
    pub reason: Cause,
    /// The text without the field, such as `Invalid value: 10: must be less than 10`.
    pub message: String,
}

impl FieldError {
    /// An error that shows the value, where the value is given.
    pub fn new(field: impl Into<String>, reason: Cause, value: Option<&Value>, detail: &str) -> Self {
        let mut message = reason.title().to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            message.push_str(&shown(value));
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        Self { field: field.into(), reason, message }
    }

    /// A value that breaks a rule.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(field, Cause::Invalid, Some(value), detail)
    }

    /// A value that is missing.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, Cause::Required, None, detail)
    }

    /// A field that may not be set or changed.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, Cause::Forbidden, None, detail)
    }

    /// A value that is there twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new(field, Cause::Duplicate, Some(value), "")
    }

    /// A value that is not one of those allowed.
    pub fn not_supported<'a>(
        field: impl Into<String>,
        value: &Value,
        allowed: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let allowed: Vec<String> = allowed.into_iter().map(|text| format!("{text:?}")).collect();
        let detail = if allowed.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", allowed.join(", "))
        };
        Self::new(field, Cause::NotSupported, Some(value), &detail)
    }
}

/// A value the way field errors show it: text quoted, everything else as JSON.
fn shown(value: &Value) -> String {
    value.to_string()
}

/// The `Status` (422, reason `Invalid`) that refuses an object because of its fields.
pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Value {
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = format!("{}: {}", error.field, error.message);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let list = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let causes: Vec<Value> = errors
        .iter()
        .map(|error| json!({"reason": error.reason.as_str(), "message": error.message, "field": error.field}))
        .collect();
    let mut details = json!({"causes": causes});
    for (field, value) in [("name", name), ("kind", kind), ("group", group)] {
        if !value.is_empty() {
            details[field] = json!(value);
        }
    }
    status(422, "Invalid", &format!("{qualified} \"{name}\" is invalid: {list}"), details)
}

/// A failure `Status`.
pub fn status(code: u16, reason: &str, message: &str, details: Value) -> Value {
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    if details.is_object() {
        body["details"] = details;
    }
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| *value != "");
    }
    body
}
