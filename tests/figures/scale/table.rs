//! What was measured, in words and as a table.

use std::fmt;
use std::time::Duration;

use super::access::Access;

/// The median, the slow end, and the slowest.
#[derive(Clone, Debug)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// Of those times.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    fn at(&self, share: f64) -> f64 {
        let index = (self.0.len() as f64 * share) as usize;
        self.0.get(index.min(self.0.len().saturating_sub(1))).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.0}, p99 {:.0}, max {:.0} ms", self.at(0.5), self.at(0.99), self.at(1.0))
    }
}

/// One round.
pub struct Figures {
    /// From the process's start until the members of every database were asked.
    pub start: Duration,
    /// What was asked of the API server meanwhile.
    pub calls: Access,
    /// The most memory that the start took, in megabytes.
    pub peak: f64,
    /// What was asked of the API server in an idle minute.
    pub idle: Access,
    /// Processor time of that minute.
    pub processor: Duration,
    /// Resident memory after it, and how much of it is not a file's.
    pub resident: f64,
    /// See `resident`.
    pub anonymous: f64,
    /// Writes for each single change.
    pub caused: f64,
    /// All requests of the single changes.
    pub written: Access,
    /// From a change to the last write, one at a time.
    pub single: Spread,
    /// The same, many at once.
    pub burst: Spread,
    /// Resident memory at the end.
    pub after: f64,
}

impl Figures {
    fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("start until every database was looked at", format!("{:.1} s", self.start.as_secs_f64())),
            ("API calls of the start", self.calls.all().to_string()),
            ("writes in an idle minute", self.idle.writes().to_string()),
            ("renewals of the Lease in it", self.idle.elections().to_string()),
            ("all API calls in it", self.idle.all().to_string()),
            ("processor time in it", format!("{:.1} s", self.processor.as_secs_f64())),
            ("resident memory at rest", format!("{:.1} MB", self.resident)),
            ("of it, not the program's file", format!("{:.1} MB", self.anonymous)),
            ("the most at the start", format!("{:.1} MB", self.peak)),
            ("resident memory after the changes", format!("{:.1} MB", self.after)),
            ("a change to its last write, alone", self.single.to_string()),
            ("the same, a hundred at once", self.burst.to_string()),
            ("writes for each change", format!("{:.1}", self.caused)),
        ]
    }

    /// Several rounds beside each other.
    pub fn table(rounds: &[(&str, &Self)]) -> String {
        let mut rows = vec![
            [vec![String::new()], rounds.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()]
                .concat(),
        ];
        let all: Vec<_> = rounds.iter().map(|(_, round)| round.rows()).collect();
        for (index, (what, _)) in all.first().into_iter().flatten().enumerate() {
            let values = all.iter().filter_map(|rows| rows.get(index)).map(|(_, value)| value.clone());
            rows.push(std::iter::once((*what).to_owned()).chain(values).collect());
        }
        rows.insert(1, vec!["---".to_owned(); rounds.len() + 1]);
        let lines: Vec<String> = rows.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
        lines.join("\n")
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, value) in self.rows() {
            writeln!(f, "{what}: {value}")?;
        }
        writeln!(f, "  the start asked for: {}", self.calls)?;
        writeln!(f, "  the idle minute: {}", self.idle)?;
        write!(f, "  the single changes: {}", self.written)
    }
}
