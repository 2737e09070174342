//! Objects and lists as responses, in the form that was asked for.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::request::Form;
use super::store::{Record, StoreError};
use crate::sandbox::object::table::{self, IncludeObject};

/// A JSON response.
pub fn json_response(code: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON response of a tree.
pub fn value_response(code: StatusCode, body: &Value) -> Response {
    json_response(code, body.to_string().into_bytes())
}

/// Adds what the client should know although it got what it wanted.
pub fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

impl Call {
    /// An object in the form that was asked for.
    pub fn shown(&self, object: &Value) -> Value {
        match self.form {
            Form::Object => object.clone(),
            Form::Metadata => table::partial(object),
            Form::Table => {
                let metadata = json!({"resourceVersion": object.pointer("/metadata/resourceVersion")});
                self.table(&[object], &metadata)
            }
        }
    }

    /// Objects as a table.
    pub fn table(&self, items: &[&Value], list_metadata: &Value) -> Value {
        let columns = self.resource.custom.as_ref().map(|custom| &custom.columns);
        let include = IncludeObject::parse(self.query.get("includeObject").unwrap_or_default());
        table::render(&self.resource.gvk(), columns, items, list_metadata, include, Timestamp::now())
    }

    /// A stored object in the form that was asked for, appended to `out`. In a list, objects of built-in kinds do not
    /// repeat their type.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub fn write_record(&self, record: &Record, in_list: bool, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let untyped = in_list && self.resource.custom.is_none();
        if self.form == Form::Object && !self.resource.converted && self.resource.custom.is_none() {
            record.write_json((!untyped).then_some(&self.resource.name), out);
            return Ok(());
        }
        let mut shown = self.shown(&self.resource.load(record)?);
        if untyped
            && self.form == Form::Object
            && let Some(fields) = shown.as_object_mut()
        {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        serde_json::to_writer(out, &shown)?;
        Ok(())
    }

    /// A response with one object.
    pub fn object_response(&self, code: StatusCode, object: &Value, warnings: &[String]) -> Response {
        let mut response = value_response(code, &self.shown(object));
        warn(&mut response, warnings);
        self.warn_of_deprecation(&mut response);
        response
    }

    /// Adds the warning of a deprecated version.
    pub fn warn_of_deprecation(&self, response: &mut Response) {
        if let Some(text) = self.resource.custom.as_ref().and_then(|custom| custom.deprecation.clone()) {
            warn(response, &[text]);
        }
    }
}
