//! The three kinds of patch.

mod strategic;

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

/// Applies a JSON patch (RFC 6902), where `test` against null passes on a missing path.
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    let mut result = object.clone();
    json_patch::patch(&mut result, &operations)
        .map_err(|error| PatchError::DoesNotApply(error.to_string()))?;
    Ok(result)
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let mut result = object.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

/// Applies a strategic merge patch, led by the merge keys of `schema`.
pub fn strategic_patch(object: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    strategic::apply(object, patch, schema)
}
