//! The three kinds of patch.

mod strategic;
#[cfg(test)]
mod tests;

use json_patch::PatchOperation;
use serde_json::Value;

use super::schema::Schema;

/// Why a patch was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch is not of the right form: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    DoesNotApply(String),
}

impl PatchError {
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::DoesNotApply(_) => 422,
        }
    }

    /// The `Status` body.
    pub fn status(&self) -> Value {
        match self {
            Self::Malformed(text) => super::error::status(400, "BadRequest", text, Value::Null),
            // The server's own words; it keeps the reason to itself, we add it as a cause.
            Self::DoesNotApply(text) => super::error::status(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
                serde_json::json!({"causes": [{"reason": "UnexpectedServerResponse", "message": text}]}),
            ),
        }
    }
}

/// The API server refuses longer patches.
const MAX_OPERATIONS: usize = 10_000;

/// Applies a JSON patch (RFC 6902), where `test` against null passes on a missing path.
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(list) = patch.as_array() else { return Err(unfit(patch, "[]handlers.jsonPatchOp")) };
    if let Some(item) = list.iter().find(|item| !item.is_object()) {
        return Err(unfit(item, "handlers.jsonPatchOp"));
    }
    if list.iter().any(|operation| operation.get("path").is_none()) {
        return Err(PatchError::DoesNotApply("operation missing path field: missing value".to_owned()));
    }
    let known = ["add", "remove", "replace", "move", "copy", "test"];
    let names = patch.as_array().into_iter().flatten().filter_map(|operation| operation.get("op")?.as_str());
    if let Some(unknown) = names.into_iter().find(|name| !known.contains(name)) {
        return Err(PatchError::DoesNotApply(format!("Unexpected kind: {unknown}")));
    }
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if operations.0.len() > MAX_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.0.len()
        )));
    }
    let mut result = object.clone();
    for operation in operations.0 {
        if let PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && test.path.resolve(&result).is_err()
        {
            continue;
        }
        json_patch::patch(&mut result, std::slice::from_ref(&operation))
            .map_err(|error| PatchError::DoesNotApply(error.to_string()))?;
    }
    Ok(result)
}

/// The refusal of JSON of another form than is read.
fn unfit(found: &Value, wanted: &str) -> PatchError {
    let found = super::schema::json_name(found);
    PatchError::Malformed(format!(
        "error decoding patch: json: cannot unmarshal {found} into Go value of type {wanted}"
    ))
}

/// Applies a JSON merge patch (RFC 7386); it must be an object.
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(unfit(patch, "map[string]interface {}"));
    }
    let mut result = object.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

/// Applies a strategic merge patch, led by the merge keys of `schema`.
pub fn strategic_patch(object: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    strategic::apply(object, patch, schema)
}
