//! The release that the data is of, noted beside the data: a Database and its StatefulSet go, the data stays.

use super::context::Context;
use super::notes;
use crate::api::PgVersion;

/// Annotation on Patroni's `NAME-config` with the release that last ran.
pub const RELEASE: &str = "db.example.com/release";

/// What was noted.
pub fn recorded(cx: &Context<'_>) -> Option<PgVersion> {
    notes::recorded(cx, &cx.names.dynamic_config(), RELEASE)?.parse().ok()
}

/// What runs.
pub fn running(cx: &Context<'_>) -> Option<PgVersion> {
    cx.view.running_primary()?.version()?.parse().ok()
}
