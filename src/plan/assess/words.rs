//! What is said of a member.

use std::fmt;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

/// Why a member may not be primary. Shown, it is the rest of a sentence that begins with the member's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It was asked and does not answer.
    #[error("does not answer")]
    Silent,
    /// Its pod is being deleted.
    #[error("is stopping")]
    Stopping,
    /// The spec asks for fewer members.
    #[error("is about to be removed: the spec asks for fewer members")]
    Leaving,
    /// Its PostgreSQL does not run as a replica.
    #[error("{0}")]
    NotRunning(String),
    /// It has no data, or not all of it.
    #[error("has no data to go by: it {0}")]
    NoData(String),
    /// It does not follow the primary.
    #[error("is not streaming from the primary")]
    NotStreaming,
    /// Its data has gone another way, or has not followed.
    #[error("{}", other_timeline(*.own, *.current))]
    OtherTimeline {
        /// The timeline that it is on.
        own: Option<i64>,
        /// The database's.
        current: i64,
    },
    /// Commits do not wait for it.
    #[error("is not listed as a synchronous standby: commits do not wait for it")]
    NotListed,
    /// It lacks too much of the primary's WAL.
    #[error("lags by {}", size(*.bytes))]
    Lagging {
        /// How much it lacks.
        bytes: i64,
    },
    /// It has received what it needs, and still has to go through it.
    #[error("has still to replay {}, and would take no writes before it has", size(*.bytes))]
    Replaying {
        /// How much.
        bytes: i64,
    },
    /// Another one has more.
    #[error("lacks {} that {better} has", size(*.bytes))]
    Behind {
        /// The member that has most.
        better: String,
        /// How much more.
        bytes: i64,
    },
}

fn other_timeline(own: Option<i64>, current: i64) -> String {
    match own {
        Some(own) => format!("is on timeline {own}, and the database on {current}"),
        None => format!("does not say which timeline it is on, and the database is on {current}"),
    }
}

/// What is lost if a member is promoted. Shown, it is a sentence without its full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No commit that was acknowledged.
    Nothing,
    /// What the lost primary acknowledged after it was last heard of, and what is known to be missing already.
    After {
        /// The lost primary, where it is known.
        primary: Option<String>,
        /// When it was last heard of, by its own clock.
        seen: Option<Timestamp>,
        /// Bytes of WAL that it had written by then and the member lacks.
        missing: i64,
    },
    /// Nothing tells.
    Unknown,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no acknowledged commit is lost"),
            Self::Unknown => f.write_str("nothing tells how much would be lost"),
            Self::After { primary, seen, missing } => {
                let whole = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
                let who = primary.as_deref().unwrap_or("the last primary");
                let when = seen.and_then(|seen| seen.round(whole).ok());
                let after = when.map_or_else(
                    || "since it was last heard of".to_owned(),
                    |when| format!("after {when}, when it was last heard of,"),
                );
                if *missing > 0 {
                    let missing = size(*missing);
                    write!(f, "{missing} of {who}'s WAL are lost, and whatever it wrote {after} too")
                } else {
                    write!(f, "whatever {who} wrote {after} is lost, and nothing older")
                }
            }
        }
    }
}

/// An amount of WAL, for people.
pub fn size(count: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") };
    }
    let mut unit = 0;
    let mut tenths = count.saturating_mul(10) / 1024;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS.get(unit).copied().unwrap_or_default())
}
