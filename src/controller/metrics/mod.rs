//! What Prometheus is told: how the controller works; and of each Database who leads, who lags, what moved and for how long
//! nobody could write, and whether what was written is archived and backed up.
//!
//! Everything is told from what a pass saw. [`table`] holds all metrics there are.

mod certificate;
mod databases;
mod port;
mod process;
mod readers;
mod requests;
mod serve;
mod sighting;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

pub use databases::Databases;
pub use process::{Outcome, Process, Work};
pub use requests::counted;
pub use serve::{MetricsConfig, Reached, ServeError, listening, serve};
pub use sighting::Sighting;
pub use table::metrics;

/// Everything that is told.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The controller's passes and requests.
    pub process: Process,
    /// Whether it works, and what waits.
    pub work: Arc<Work>,
    /// The Databases.
    pub databases: Arc<Databases>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let process = Process::new(&mut registry);
        let (work, databases) = (Arc::<Work>::default(), Arc::<Databases>::default());
        registry.register_collector(Box::new(work.clone()));
        registry.register_collector(Box::new(databases.clone()));
        Self { registry, process, work, databases }
    }
}

impl Metrics {
    /// Everything, in Prometheus' text format.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}
