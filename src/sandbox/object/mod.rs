//! What a Kubernetes API server does to objects, as pure functions over JSON: patches, schemas, server-side apply,
//! selectors, defaults and checks of the built-in kinds, tables, OpenAPI.
//!
//! The order in which a write goes through them is that of a real API server:
//!
//! 1. decode; [`schema::Schema::unknown_fields`] gives warnings or, with `fieldValidation=Strict`, the 400;
//! 2. [`schema::Schema::prune`] (custom resources and built-in kinds alike), then `default`
//!    ([`schema::Schema::default`] for custom resources, [`builtin::default`] for built-in kinds);
//! 3. for a patch: [`patch`] or [`apply::apply`] on the live object, then 2. again on the result;
//! 4. [`builtin::prepare_create`] or [`builtin::prepare_update`] (status kept apart, values made by the server);
//! 5. [`builtin::validate_create`] or [`builtin::validate_update`] for built-in kinds,
//!    [`builtin::metadata`] and [`schema::Schema::validate`] for custom resources;
//! 6. [`apply::track_update`] for every write that is not an apply.

pub mod apply;
pub mod builtin;
pub mod error;
pub mod openapi;
pub mod patch;
#[cfg(test)]
mod replay;
pub mod schema;
pub mod selector;
pub mod table;

pub use error::{Cause, FieldError, invalid};
pub use kube::core::GroupVersionKind as Gvk;
