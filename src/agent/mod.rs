//! `dbctl agent`: the small jobs inside a database pod.

mod bootstrap;
mod render;
mod start;

pub use bootstrap::{BootstrapError, post_bootstrap};
pub use render::{Environment, RenderError, render};
pub use start::{AgentError, run};
