//! Which backup a database is restored from, and along which timeline. Pure.

use std::fmt;

use jiff::Timestamp;

use super::find::{Contents, Stored};
use crate::backup::base::{BackupId, Record};
use crate::backup::chain::{Chain, Gap, Leg, is_reachable, newest, way};
use crate::backup::wal::{Segment, SegmentSize, position_text};

/// A store's clock and the database's may differ by so many seconds.
const SKEW_SECONDS: i64 = 60;

/// Up to where WAL is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All of it.
    End,
    /// Everything that was committed at that instant or before it.
    Time(Timestamp),
    /// Up to the record that begins at that position in bytes, which is replayed too.
    Lsn(u64),
    /// A point that `pg_create_restore_point` made.
    Name(String),
    /// As soon as the data is consistent.
    Immediate,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("the end of the archive"),
            Self::Time(at) => write!(f, "{at}"),
            Self::Lsn(lsn) => write!(f, "WAL position {}", position_text(*lsn)),
            Self::Name(name) => write!(f, "restore point {name:?}"),
            Self::Immediate => f.write_str("the backup itself"),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The backup to begin with; without it, the newest that fits.
    pub backup: Option<BackupId>,
    /// Up to where.
    pub target: Target,
    /// PostgreSQL's major version that the data must be of, if that is given.
    pub major: Option<u32>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The backup.
    pub record: Record,
    /// The timeline that WAL is replayed along.
    pub timeline: u32,
    /// The WAL that is there for it.
    pub chain: Chain,
    /// The last segment's time: about when the archive ends.
    pub until: Option<Timestamp>,
}

/// Why nothing can be restored. Trying again changes nothing, unless the archive changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// There is no backup.
    #[error("find a backup in {0}: there is no complete one")]
    Empty(String),
    /// There are only such as cannot be read.
    #[error("find a backup in {destination}: the record of {id} cannot be read: {problem}")]
    Unreadable {
        /// Where.
        destination: String,
        /// The newest.
        id: BackupId,
        /// What is wrong with it.
        problem: String,
    },
    /// Not of that name.
    #[error("find backup {id} in {destination}: there are {there}")]
    Unknown {
        /// The name.
        id: BackupId,
        /// Where.
        destination: String,
        /// The backups that there are.
        there: String,
    },
    /// Only such as somebody restored and found damaged.
    #[error(
        "find a whole backup in {destination}: those that are there were found damaged when they were verified ({damaged}); to try \
         one all the same, name it"
    )]
    Damaged {
        /// Where.
        destination: String,
        /// Their names.
        damaged: String,
    },
    /// Of other major versions.
    #[error(
        "restore PostgreSQL {wanted} from {destination}: its backups are of PostgreSQL {found}; set spec.version to a release of that"
    )]
    Major {
        /// The version that is asked for.
        wanted: u32,
        /// The versions of the backups.
        found: String,
        /// Where.
        destination: String,
    },
    /// Before the first backup, or behind the end of the archive.
    #[error("restore {destination} to {target}: it can be restored to any time from {from} to about {until}")]
    Outside {
        /// Where.
        destination: String,
        /// What was asked for.
        target: String,
        /// When the first backup was complete.
        from: String,
        /// When the last segment was archived.
        until: String,
    },
    /// Not with that backup.
    #[error("restore {target} with backup {id}: {problem}")]
    Unfit {
        /// What was asked for.
        target: String,
        /// The backup.
        id: BackupId,
        /// Why not.
        problem: String,
    },
    /// WAL is missing on the way.
    #[error(
        "restore to {target} with backup {id}: WAL is missing from the archive ({gap}); up to there, it can be restored to an earlier time \
         or to a WAL position below {}", position_text(.gap.at)
    )]
    Gap {
        /// What was asked for.
        target: String,
        /// The backup.
        id: BackupId,
        /// Where.
        gap: Gap,
    },
}

/// Chooses. The newest backup that was complete by the target makes the shortest recovery; an older one is taken where WAL
/// that the newest needs is missing.
///
/// # Errors
/// Where there is none, or the WAL does not reach the target.
pub fn choose(contents: &Contents, wish: &Wish) -> Result<Choice, ChooseError> {
    let mut all = named(contents, wish)?;
    of_major(&mut all, contents, wish)?;
    if !matches!(wish.target, Target::Time(_) | Target::Immediate) {
        // What was given up by a restore in place comes last: it is not what the database came to.
        let current = |stored: &Stored, record: &Record| {
            let Stored { tree, timelines, .. } = stored;
            Some(newest(tree, timelines.iter().copied(), record.timeline, record.stop_lsn))
                >= timelines.last().copied()
        };
        all.sort_by_key(|(stored, record)| (current(stored, record), record.stopped_at));
    }
    let mut refused = Vec::new();
    for (stored, record) in all.iter().rev() {
        match fits(stored, record, &wish.target) {
            Ok(choice) => return Ok(choice),
            Err(why) => refused.push(why),
        }
    }
    // The newest backup's reason says most, but that it came too late.
    let late = |why: &ChooseError| matches!(why, ChooseError::Unfit { problem, .. } if problem == EARLIER);
    let why = refused.iter().find(|why| !late(why)).or(refused.first());
    match why {
        Some(ChooseError::Unfit { problem, .. })
            if wish.backup.is_none() && (problem == EARLIER || problem == LATER) =>
        {
            Err(outside(contents, &all, wish))
        }
        Some(why) => Err(why.clone()),
        None => Err(ChooseError::Empty(contents.destination.clone())),
    }
}

/// A backup, and the part of the archive that it belongs to.
type Candidate<'c> = (&'c Stored, &'c Record);

fn ids(all: &[Candidate<'_>]) -> String {
    all.iter().map(|(_, record)| record.id.to_string()).collect::<Vec<_>>().join(", ")
}

/// The backup that is named, or else all that nobody has found damaged; the oldest first.
fn named<'c>(contents: &'c Contents, wish: &Wish) -> Result<Vec<Candidate<'c>>, ChooseError> {
    let destination = || contents.destination.clone();
    let own = |stored: &'c Stored| stored.backups.iter().map(move |record| (stored, record));
    let mut all: Vec<Candidate<'c>> = contents.epochs.values().flat_map(own).collect();
    all.sort_by_key(|(_, record)| record.stopped_at);
    let there = ids(&all);
    if let Some(id) = &wish.backup {
        if let Some(problem) = contents.unreadable.get(id) {
            let (target, problem) =
                (wish.target.to_string(), format!("its record cannot be read: {problem}"));
            return Err(ChooseError::Unfit { target, id: id.clone(), problem });
        }
        all.retain(|(_, record)| record.id == *id);
        if all.is_empty() && !there.is_empty() {
            return Err(ChooseError::Unknown { id: id.clone(), destination: destination(), there });
        }
    } else {
        all.retain(|(stored, record)| !stored.damaged.contains(&record.id));
    }
    match contents.unreadable.last_key_value() {
        _ if !all.is_empty() => Ok(all),
        _ if !there.is_empty() => Err(ChooseError::Damaged { destination: destination(), damaged: there }),
        Some((id, problem)) => Err(ChooseError::Unreadable {
            destination: destination(),
            id: id.clone(),
            problem: problem.clone(),
        }),
        None => Err(ChooseError::Empty(destination())),
    }
}

/// Leaves those of the major version that is asked for.
fn of_major(all: &mut Vec<Candidate<'_>>, contents: &Contents, wish: &Wish) -> Result<(), ChooseError> {
    let major = |record: &Record| record.epoch().map(|epoch| epoch.major);
    let Some(wanted) = wish.major else { return Ok(()) };
    let mut found: Vec<u32> = all.iter().filter_map(|(_, record)| major(record)).collect();
    found.dedup();
    all.retain(|(_, record)| major(record) == Some(wanted));
    if !all.is_empty() {
        return Ok(());
    }
    let found = found.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ");
    Err(ChooseError::Major { wanted, found, destination: contents.destination.clone() })
}

const EARLIER: &str = "it was complete only later";
const LATER: &str = "the archive ends earlier";

fn outside(contents: &Contents, all: &[Candidate<'_>], wish: &Wish) -> ChooseError {
    let text = |at: Option<Timestamp>| at.map_or_else(|| "?".to_owned(), |at| at.to_string());
    let newest = all.last().map(|(stored, record)| follow(stored, record, &Target::End));
    ChooseError::Outside {
        destination: contents.destination.clone(),
        target: wish.target.to_string(),
        from: text(all.first().map(|(_, record)| record.stopped_at)),
        until: text(newest.and_then(|choice| choice.until)),
    }
}

/// The timeline that the database was on at that instant: the newest, unless all that the archive has of it is later. Then an older one
/// that still wrote by then what was given up since.
fn live(stored: &Stored, record: &Record, at: Timestamp, size: SegmentSize) -> u32 {
    let Stored { tree, histories, timelines, segments, .. } = stored;
    let own = |timeline: u32| segments.iter().filter(move |(segment, _)| segment.timeline == timeline);
    let mut reachable = timelines
        .iter()
        .copied()
        .filter(|to| *to >= record.timeline && is_reachable(tree, record.timeline, record.stop_lsn, *to))
        .rev();
    let Some(mut chosen) = reachable.next() else { return record.timeline };
    for older in reachable {
        let began = own(chosen).map(|(_, archived)| archived).chain(histories.get(&chosen)).min();
        if began.is_some_and(|began| *began <= at) {
            break;
        }
        let legs = way(tree, chosen);
        let beyond = own(older)
            .filter(|(segment, archived)| is_given_up(stored, &legs, **segment, **archived, size))
            .map(|(_, archived)| *archived);
        if beyond.max().is_some_and(|last| last >= at) {
            chosen = older;
        }
    }
    chosen
}

/// Whether the database came to a segment that is off that way, and left it: a recovery went back behind it, or a replica was promoted
/// that had less. It did not come to what a former primary has archived only since the promotion.
fn is_given_up(
    stored: &Stored,
    legs: &[Leg],
    segment: Segment,
    archived: Timestamp,
    size: SegmentSize,
) -> bool {
    let is_behind = |begin: u64| Segment::of(1, begin, size) <= segment.on(1);
    let leg = legs.iter().find(|leg| is_behind(leg.begin));
    if leg.is_some_and(|leg| leg.timeline == segment.timeline) {
        return false;
    }
    let is_late = |leg: &Leg| {
        let fork = stored.tree.parent(leg.timeline).filter(|fork| fork.from == segment.timeline)?;
        let began = stored.histories.get(&leg.timeline);
        Some(fork.is_promotion && is_behind(fork.at) && began.is_some_and(|began| archived >= *began))
    };
    !legs.iter().find_map(is_late).unwrap_or(false)
}

/// A backup with the WAL behind it.
fn follow(stored: &Stored, record: &Record, target: &Target) -> Choice {
    let Stored { tree, timelines, segments, .. } = stored;
    // Read from the record, it has been checked.
    let size = record.wal_segment_size().unwrap_or(SegmentSize::DEFAULT);
    let timeline = match target {
        Target::Time(at) => live(stored, record, *at, size),
        _ => newest(tree, timelines.iter().copied(), record.timeline, record.stop_lsn),
    };
    let chain = Chain::follow(record.start(), timeline, tree, segments, size);
    let until = chain.last().and_then(|last| segments.get(&last)).copied();
    Choice { record: record.clone(), timeline, chain, until }
}

/// Whether the target can be reached from that backup.
fn fits(stored: &Stored, record: &Record, target: &Target) -> Result<Choice, ChooseError> {
    let choice = follow(stored, record, target);
    let unfit = |problem: &str| ChooseError::Unfit {
        target: target.to_string(),
        id: record.id.clone(),
        problem: problem.to_owned(),
    };
    let earlier = match target {
        Target::Time(at) => *at < record.stopped_at,
        Target::Lsn(lsn) => *lsn < record.stop_lsn,
        Target::End | Target::Name(_) | Target::Immediate => false,
    };
    if earlier {
        return Err(unfit(EARLIER));
    }
    let gap = |choice: &Choice| {
        choice.chain.gap.map(|gap| ChooseError::Gap {
            target: target.to_string(),
            id: record.id.clone(),
            gap,
        })
    };
    if choice.chain.reach < record.stop_lsn {
        return Err(gap(&choice).unwrap_or_else(|| {
            let reach = position_text(choice.chain.reach);
            unfit(&format!("the WAL that makes it consistent is not in the archive from {reach} on"))
        }));
    }
    let reached = match target {
        Target::Immediate => true,
        // Whether it lies before the gap, only recovery can tell.
        Target::Name(_) => true,
        Target::End => choice.chain.gap.is_none(),
        Target::Lsn(lsn) => *lsn < choice.chain.reach,
        Target::Time(at) => {
            let end = choice.until.unwrap_or(record.stopped_at);
            end.as_second().saturating_add(SKEW_SECONDS) >= at.as_second()
        }
    };
    if reached { Ok(choice) } else { Err(gap(&choice).unwrap_or_else(|| unfit(LATER))) }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
