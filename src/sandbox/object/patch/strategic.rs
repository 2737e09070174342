//! Strategic merge patches.

use serde_json::Value;

use super::PatchError;
use crate::sandbox::object::schema::Schema;

pub(super) fn apply(object: &Value, patch: &Value, _schema: &Schema) -> Result<Value, PatchError> {
    super::merge_patch(object, patch)
}
