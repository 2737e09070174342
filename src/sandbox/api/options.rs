//! The options of a write in its query string.

use http::Method;
use serde_json::json;

use super::body;
use super::call::Call;
use super::failure::Failure;
use crate::sandbox::object::{Cause, FieldError};

/// Longest name of a field manager.
const MANAGER_MAX: usize = 128;

/// Checks the options that writes of this method have.
///
/// # Errors
/// 422 where one is not as it must be.
pub fn check(call: &Call, method: &Method) -> Result<(), Failure> {
    let mut errors = Vec::new();
    let kind = match *method {
        Method::POST => "CreateOptions",
        Method::PUT => "UpdateOptions",
        Method::PATCH => {
            errors.extend(patch(call));
            "PatchOptions"
        }
        _ => return Ok(()),
    };
    errors.extend(manager(call.query.get("fieldManager").unwrap_or_default()));
    errors.extend(call.query.get("dryRun").and_then(dry_run));
    let allowed = ["Ignore", "Strict", "Warn"];
    if let Some(asked) = call.query.get("fieldValidation").filter(|asked| !allowed.contains(asked)) {
        let allowed = ["", "Ignore", "Strict", "Warn"];
        errors.push(FieldError::not_supported("fieldValidation", &json!(asked), allowed));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::options(kind, &errors)) }
}

/// What is wrong with `dryRun`.
pub fn dry_run(asked: &str) -> Option<FieldError> {
    (asked != "All").then(|| FieldError::not_supported("dryRun", &json!([asked]), ["All"]))
}

fn patch(call: &Call) -> Option<FieldError> {
    let applies = body::media_type(&call.headers) == "application/apply-patch+yaml";
    match applies {
        true if call.query.get("fieldManager").is_none() => {
            Some(FieldError::required("fieldManager", "is required for apply patch"))
        }
        false if call.query.get("force").is_some() => {
            Some(FieldError::forbidden("force", "may not be specified for non-apply patch"))
        }
        _ => None,
    }
}

fn manager(name: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > MANAGER_MAX {
        let detail = format!("may not be more than {MANAGER_MAX} bytes");
        errors.push(FieldError::new("fieldManager", Cause::TooLong, None, &detail));
    }
    for (at, letter) in name.char_indices().filter(|(_, letter)| letter.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
        errors.push(FieldError::invalid("fieldManager", &json!(name), &detail));
    }
    errors
}
