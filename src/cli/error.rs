//! The one error that commands end with, and the exit codes it stands for.

use std::fmt::{self, Write as _};
use std::io;

/// How a command ended; the discriminant is its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line, or a file given to it, is wrong; nothing was changed.
    Usage = 2,
    /// It is there, and not well.
    Unhealthy = 3,
    /// It did not happen in time; it may still.
    TimedOut = 4,
    /// Refused, because it could lose data or take what belongs to another.
    Refused = 5,
    /// There is nothing of that name.
    NotFound = 6,
}

impl Outcome {
    /// All outcomes and what they mean, as `--help` lists them.
    pub const TABLE: [(Outcome, &'static str); 7] = [
        (Outcome::Done, "done"),
        (Outcome::Failed, "failed"),
        (Outcome::Usage, "wrong usage: the command line or a file; nothing was changed"),
        (Outcome::Unhealthy, "the database or the sandbox is there, but not healthy"),
        (Outcome::TimedOut, "timed out; what was asked for may still happen"),
        (Outcome::Refused, "refused as unsafe"),
        (Outcome::NotFound, "not found"),
    ];

    /// The exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// What it comes down to.
    pub outcome: Outcome,
    /// What failed and why; printed after `error: `. Empty where everything was said already.
    pub message: String,
    /// The single things that are wrong, one a line.
    pub details: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

/// What commands return.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    fn new(outcome: Outcome, message: String) -> Self {
        Self { outcome, message, details: Vec::new(), hints: Vec::new() }
    }

    /// `failed to …`.
    pub fn failed(what: impl fmt::Display) -> Self {
        Self::new(Outcome::Failed, format!("failed to {what}"))
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Outcome::Usage, message.into())
    }

    /// It is there, and not well.
    pub fn unhealthy(message: impl Into<String>) -> Self {
        Self::new(Outcome::Unhealthy, message.into())
    }

    /// It did not happen in time.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(Outcome::TimedOut, message.into())
    }

    /// Refused as unsafe.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Outcome::Refused, message.into())
    }

    /// Nothing of that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Outcome::NotFound, message.into())
    }

    /// Ends with that code and without a word: output said it all, or nobody reads it.
    pub fn silent(outcome: Outcome) -> Self {
        Self::new(outcome, String::new())
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds single things that are wrong.
    #[must_use]
    pub fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    /// As it is printed, without colours.
    pub fn render(&self, error: &str, hint: &str) -> String {
        let mut text = String::new();
        if self.message.is_empty() {
            return text;
        }
        let _ = writeln!(text, "{error} {}", self.message.trim_end());
        for detail in &self.details {
            let _ = writeln!(text, "  {}", detail.trim_end().replace('\n', "\n  "));
        }
        for line in &self.hints {
            let _ = writeln!(text, "{hint} {line}");
        }
        text
    }
}

/// Standard output that cannot be written; where its reader has gone, nothing is left to be said.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::silent(Outcome::Done)
        } else {
            Self::failed(format!("write output: {error}"))
        }
    }
}

/// An error of a lower layer, whose message fits after "failed to".
pub fn failed<E: fmt::Display>(error: E) -> CliError {
    CliError::failed(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_codes() {
        for (code, (outcome, _)) in (0..).zip(Outcome::TABLE) {
            assert_eq!(outcome.code(), code);
        }
    }

    #[test]
    fn errors_read_from_what_to_why_to_next_step() {
        let error = CliError::usage("cannot create \"a\"")
            .details(["spec.replicas: 10 is not allowed: 1 to 9".into()])
            .hint("`dbctl create --help` lists the fields");
        assert_eq!(
            error.render("error:", "hint:"),
            "error: cannot create \"a\"\n  spec.replicas: 10 is not allowed: 1 to 9\nhint: `dbctl create --help` lists the fields\n"
        );
        assert_eq!(CliError::silent(Outcome::Unhealthy).render("error:", "hint:"), "");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error, CliError::silent(Outcome::Done));
    }
}
