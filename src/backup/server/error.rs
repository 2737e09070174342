//! What goes wrong between a client and a server, in the server's own words where it has any.

use std::fmt;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nobody listens there, or the way is closed.
    #[error("connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The server did not prove who it is.
    #[error("speak TLS with the server: {0}")]
    Tls(String),
    /// Connection and login took too long.
    #[error("connect to {address}: no session within {}", humantime::format_duration(*limit))]
    Late {
        /// Where.
        address: String,
        /// The time there was.
        limit: Duration,
    },
    /// Client and server have no way of proving themselves in common, or the server did not prove itself.
    #[error("log in: {0}")]
    Login(String),
    /// The server said no.
    #[error("have the server do it: {report}{warnings}")]
    Refused {
        /// Its words.
        report: Box<Report>,
        /// What it said before: of damaged pages, the files and blocks.
        warnings: Warnings,
    },
    /// Nothing came for too long.
    #[error("hear from the server: silent for {}{warnings}", humantime::format_duration(*limit))]
    Silent {
        /// How long was waited.
        limit: Duration,
        /// What it said before.
        warnings: Warnings,
    },
    /// The connection broke.
    #[error("hear from the server: {source}{warnings}")]
    Lost {
        /// The system's words.
        source: std::io::Error,
        /// What it said before.
        warnings: Warnings,
    },
    /// The server said something that has no meaning here.
    #[error("understand the server: {0}")]
    Garbage(String),
    /// The options make no request.
    #[error("ask for such a base backup: {0}")]
    Options(String),
    /// The answer to an earlier question was not read to its end, so that the next one cannot be told from it.
    #[error("use the connection: the answer to an earlier question was not read to its end")]
    Unfinished,
}

impl ServerError {
    /// What the server said, where it said no.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Refused { report, .. } => Some(report),
            _ => None,
        }
    }
}

/// For what the server sent and nobody can read.
pub(super) fn garbage(error: impl fmt::Display) -> ServerError {
    ServerError::Garbage(error.to_string())
}

/// An error or a warning of the server's
/// (<https://www.postgresql.org/docs/current/protocol-error-fields.html>).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, …
    pub severity: String,
    /// The SQLSTATE, five characters.
    pub code: String,
    /// What happened.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What could be done.
    pub hint: Option<String>,
}

impl Report {
    /// Reads its fields; what is not UTF-8 is shown as well as can be.
    pub(super) fn read(fields: ErrorFields<'_>) -> Result<Self, ServerError> {
        let mut report = Self::default();
        let mut translated = None;
        let mut fields = fields;
        while let Some(field) = fields.next().map_err(garbage)? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => report.severity = value,
                b'S' => translated = Some(value),
                b'C' => report.code = value,
                b'M' => report.message = value,
                b'D' => report.detail = Some(value),
                b'H' => report.hint = Some(value),
                _ => {}
            }
        }
        // Servers before 9.6 had the severity in their own language only.
        if report.severity.is_empty() {
            report.severity = translated.unwrap_or_default();
        }
        Ok(report)
    }

    /// Whether the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        for (name, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(f, "; {name}: {text}")?;
            }
        }
        Ok(())
    }
}

/// How many warnings are kept: the server reports up to five blocks of each damaged file.
const KEPT: usize = 20;

/// What the server warned of, in its order; the first ones are kept, the rest are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    kept: Vec<Report>,
    more: u64,
}

impl Warnings {
    /// Keeps it, unless it is of no weight.
    pub(super) fn note(&mut self, report: Report) {
        if report.severity != "WARNING" {
            return;
        }
        if self.kept.len() < KEPT {
            self.kept.push(report);
        } else {
            self.more += 1;
        }
    }

    /// The first ones.
    pub fn kept(&self) -> &[Report] {
        &self.kept
    }

    /// How many came after them.
    pub fn more(&self) -> u64 {
        self.more
    }
}

/// As the end of an error's message; nothing without warnings.
impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kept.iter().enumerate().try_for_each(|(at, report)| {
            let between = if at == 0 { "; it had said before:" } else { "," };
            write!(f, "{between} {}", report.message)
        })?;
        if self.more > 0 { write!(f, ", and {} more", self.more) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(message: &str) -> Report {
        Report { severity: "WARNING".to_owned(), message: message.to_owned(), ..Report::default() }
    }

    #[test]
    fn the_servers_words_are_all_there() {
        let report = Report {
            severity: "ERROR".to_owned(),
            code: "XX001".to_owned(),
            message: "damaged".to_owned(),
            detail: Some("much".to_owned()),
            hint: Some("restore".to_owned()),
        };
        let mut warnings = Warnings::default();
        warnings.note(warning("page 1"));
        warnings.note(Report { severity: "NOTICE".to_owned(), ..warning("idle talk") });
        warnings.note(warning("page 2"));
        let error = ServerError::Refused { report: Box::new(report), warnings };
        insta::assert_snapshot!(error, @"have the server do it: ERROR: damaged (SQLSTATE XX001); detail: much; hint: restore; it had said before: page 1, page 2");
    }

    #[test]
    fn warnings_are_counted_where_they_are_too_many_to_keep() {
        let mut warnings = Warnings::default();
        assert_eq!(warnings.to_string(), "");
        (0..1000).for_each(|turn| warnings.note(warning(&turn.to_string())));
        assert_eq!((warnings.kept().len(), warnings.more()), (KEPT, 1000 - KEPT as u64));
        assert!(warnings.to_string().ends_with(", 18, 19, and 980 more"), "{warnings}");
    }
}
