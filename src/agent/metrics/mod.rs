//! `GET /metrics` of a member: what its PostgreSQL says of itself, and the room on its volume.
//!
//! It is asked with psql over the local socket, at most once in [`KEPT`], each statement with a time limit of its own: who
//! asks waits, and nothing else does.

mod read;
mod table;

use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;

pub use table::metrics;
use table::{UP, VOLUME_FREE, VOLUME_SIZE};

use super::member::Member;
use super::report::Disk;
use crate::metrics::{Sample, number};
use crate::patroni::SUPERUSER;

/// How old an answer may be: several may ask, and each question is a process and a connection.
const KEPT: Duration = Duration::from_secs(5);
/// How long all of it may take; Prometheus itself gives up after ten seconds by default.
const PATIENCE: Duration = Duration::from_secs(6);
/// Of each session: no statement takes long, none finds anybody else's functions, none writes, and none is logged.
const OPTIONS: &str = "-c statement_timeout=1500 -c lock_timeout=500 -c search_path=pg_catalog \
                       -c default_transaction_read_only=on -c log_statement=none -c log_min_duration_statement=-1";

/// What was last read, and when.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Option<(Instant, Vec<Sample>)>>);

impl Metrics {
    /// The page.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn page(&self, member: &Member, disk: Option<Disk>) -> Result<String, fmt::Error> {
        let mut samples = self.database(member).await;
        if let Some(Disk { size, free }) = disk {
            samples.push(VOLUME_SIZE.sample(&[], number(size)));
            samples.push(VOLUME_FREE.sample(&[], number(free)));
        }
        render(samples)
    }

    /// One asks at a time; who waited for that takes its answer.
    async fn database(&self, member: &Member) -> Vec<Sample> {
        let mut last = self.0.lock().await;
        if let Some((at, samples)) = &*last
            && at.elapsed() < KEPT
        {
            return samples.clone();
        }
        let samples = ask(member).await;
        *last = Some((Instant::now(), samples.clone()));
        samples
    }
}

async fn ask(member: &Member) -> Vec<Sample> {
    let major = member.environment.major.as_ref().and_then(|major| major.parse().ok()).unwrap_or_default();
    // One that is not there need not be asked.
    let answer = if member.is_running() { psql(member, major).await.ok() } else { None };
    let Some(written) = answer else { return vec![UP.sample(&[], 0.0)] };
    let mut samples = vec![UP.sample(&[], 1.0)];
    samples.extend(read::samples(major, &written));
    samples
}

async fn psql(member: &Member, major: u32) -> std::io::Result<String> {
    let sockets = member.environment.sockets.to_string_lossy();
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--host", &sockets])
        .args(["--username", SUPERUSER, "--dbname", "postgres"])
        .env("PGCONNECT_TIMEOUT", "2")
        .env("PGAPPNAME", "dbctl metrics")
        .env("PGOPTIONS", OPTIONS);
    for query in read::queries(major) {
        command.args(["--command", &read::statement(query)]);
    }
    // It ends as its last command does; one that failed before is missing in what it wrote.
    command.args(["--command", "\\echo"]);
    member.children.output(&mut command, PATIENCE).await
}

#[derive(Debug)]
struct Page(Vec<Sample>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        metrics().into_iter().try_for_each(|metric| metric.encode(&mut encoder, &self.0))
    }
}

fn render(samples: Vec<Sample>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(samples)));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::table::FAILED;
    use super::*;

    #[test]
    fn a_page_is_prometheus_text() {
        let samples = vec![UP.sample(&[], 1.0), FAILED.sample(&["sizes"], 1.0)];
        insta::assert_snapshot!(render(samples).unwrap(), @r#"
        # HELP pg_up 1 where PostgreSQL took a connection and answered.
        # TYPE pg_up gauge
        pg_up 1
        # HELP dbctl_metrics_failed 1 where these metrics could not be read, or not in time.
        # TYPE dbctl_metrics_failed gauge
        dbctl_metrics_failed{query="sizes"} 1
        # EOF
        "#);
    }
}
