//! Backups, by the commands that PostgreSQL, Patroni and users run, beside barman-cloud and PostgreSQL's own tools. All of it in
//! one run, each round one of each, so that what else the machine does strikes all of them alike.

mod barman;
mod base;
mod bench;
mod process;
mod stores;
mod table;
mod wal;

use std::fmt;

use super::Outcome;
use barman::Barman;
use bench::Bench;

/// A cluster's, in MiB.
#[derive(Clone, Copy)]
struct Size(u64);

impl Size {
    fn bytes(self) -> u64 {
        self.0 << 20
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size % 1024 == 0 => write!(f, "{} GB", size / 1024),
            size => write!(f, "{size} MB"),
        }
    }
}

/// How much the medians are of: `FIGURES_ROUNDS`, else ten.
fn rounds() -> usize {
    variable("FIGURES_ROUNDS").unwrap_or(10)
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Measures, and prints what came out.
pub fn measure() -> Outcome<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let large = Size(variable("FIGURES_MB").unwrap_or(1024));
    let bench = Bench::start()?;
    let barman = Barman::find(bench.place());
    let barman = barman.as_ref();
    load()?;
    let mut rows = wal::measure(&bench, barman)?;
    load()?;
    let mut memory = base::memory(&bench, Size(large.0 / 4))?;
    memory.extend(base::memory(&bench, large)?);
    rows.extend(base::measure(&bench, barman, large)?);
    rows.extend(memory);
    load()?;
    table::print(&rows);
    Ok(())
}

/// What else the machine does.
fn load() -> Outcome<()> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let cores = std::thread::available_parallelism()?;
    println!("load of {cores} cores: {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
    Ok(())
}
