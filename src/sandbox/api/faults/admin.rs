//! `/debug/faults`: setting, showing and clearing faults. Never itself subject to any.

use axum::response::Response;
use http::{HeaderMap, Method, StatusCode};

use super::{FaultSpec, Faults};
use crate::sandbox::api::answer::value_response;
use crate::sandbox::api::body;
use crate::sandbox::api::failure::Failure;
use crate::sandbox::object;
use std::sync::Arc;

/// Where it answers.
pub const PATH: &str = "/debug/faults";

/// Answers a request of an administrator; `version` is the store's.
///
/// # Errors
/// 400 and 422 for faults that cannot be, 405 for other methods.
pub fn answer(
    faults: &Arc<Faults>,
    method: &Method,
    headers: &HeaderMap,
    bytes: &[u8],
    version: u64,
) -> Result<Response, Failure> {
    match *method {
        Method::GET => {}
        Method::PUT => {
            let mut wanted = body::decode(headers, bytes)?;
            if let Some(fields) = wanted.as_object_mut() {
                // What GET adds.
                fields.remove("status");
            }
            let spec: FaultSpec = serde_json::from_value(wanted)
                .map_err(|error| Failure::bad_request(format!("strict decoding error: {error}")))?;
            let wrong = spec.check();
            if !wrong.is_empty() {
                return Err(Failure::from_status(object::invalid("", "Faults", "faults", &wrong)));
            }
            tracing::info!(faults = %serde_json::json!(spec), "faults are asked for");
            if spec.is_empty() { faults.clear() } else { faults.set(spec, version) }
        }
        Method::DELETE => {
            tracing::info!("faults are cleared");
            faults.clear();
        }
        _ => return Err(Failure::method_not_allowed()),
    }
    Ok(value_response(StatusCode::OK, &faults.describe()))
}
