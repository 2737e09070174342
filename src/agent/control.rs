//! What pg_controldata and pg_waldump print. Pure.

use crate::backup::wal::{position, position_text};

/// A position in the WAL, in bytes.
pub type Lsn = i64;

/// The part of pg_controldata's answer that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// `shut down`, `in production`, `in archive recovery`, …
    pub state: String,
    /// The timeline of the last checkpoint.
    pub timeline: i64,
    /// Where the last checkpoint begins. After an orderly shutdown of a primary nothing follows it.
    pub checkpoint: Lsn,
}

impl Control {
    /// Reads pg_controldata's answer in the C locale.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        Some(Self {
            state: value("Database cluster state")?.to_owned(),
            timeline: value("Latest checkpoint's TimeLineID")?.parse().ok()?,
            checkpoint: lsn(value("Latest checkpoint location")?)?,
        })
    }

    /// A primary that was shut down in order: everything that it ever confirmed lies before its last checkpoint.
    pub fn is_shut_down_primary(&self) -> bool {
        // A replica's is "shut down in recovery".
        self.state == "shut down"
    }
}

/// `0/1800028` as a number.
pub fn lsn(text: &str) -> Option<Lsn> {
    position(text)?.try_into().ok()
}

/// The number as pg_waldump takes it.
pub fn text(lsn: Lsn) -> String {
    position_text(lsn.unsigned_abs())
}

/// A record as pg_waldump shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the one before it begins.
    pub prev: Lsn,
    /// What it is.
    pub what: String,
}

impl Record {
    /// Reads the first line.
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("rmgr: XLOG")?;
        let after = |name: &str| Some(line.split_once(name)?.1);
        Some(Self {
            lsn: lsn(after(" lsn: ")?.split([',', ' ']).next()?)?,
            prev: lsn(after(" prev ")?.split([',', ' ']).next()?)?,
            what: after(" desc: ")?.trim().to_owned(),
        })
    }

    /// Whether it is the checkpoint of an orderly shutdown, at that place.
    pub fn is_shutdown_checkpoint(&self, at: Lsn) -> bool {
        self.lsn == at && self.what.starts_with("CHECKPOINT_SHUTDOWN")
    }
}

/// The position that Patroni writes when it gives up the lock: the checkpoint, unless a switch to a new WAL file came just
/// before it (with an archive). Then it is the switch, so that a replica that has all but the checkpoint does not look a
/// whole file behind.
pub fn last_position(checkpoint: Lsn, before: Option<&Record>) -> Lsn {
    before.filter(|record| record.what == "SWITCH").map_or(checkpoint, |record| record.lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "pg_control version number:            1300\n\
        Database cluster state:               shut down\n\
        Latest checkpoint location:           1/180000A0\n\
        Latest checkpoint's REDO location:    1/180000A0\n\
        Latest checkpoint's TimeLineID:       3\n\
        Latest checkpoint's PrevTimeLineID:   3\n";

    #[test]
    fn reads_the_control_data() {
        let control = Control::parse(CONTROL).unwrap();
        assert_eq!((control.timeline, control.checkpoint), (3, (1 << 32) + 0x1800_00a0));
        assert!(control.is_shut_down_primary());
        for state in ["in production", "shut down in recovery", "shutting down", "in crash recovery"] {
            let control = Control::parse(&CONTROL.replace("shut down", state)).unwrap();
            assert!(!control.is_shut_down_primary(), "{state}");
        }
        assert_eq!(Control::parse("Database cluster state: shut down\n"), None);
    }

    #[test]
    fn positions_are_read_and_written() {
        for given in ["0/0", "0/1800028", "1F/FFFFFFFF"] {
            assert_eq!(text(lsn(given).unwrap()), given);
        }
        for wrong in ["", "0", "x/1", "0/100000000", "0/-1"] {
            assert_eq!(lsn(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_last_position_is_the_checkpoint_or_the_switch_before_it() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/05000028, prev 0/04000180, \
                    desc: CHECKPOINT_SHUTDOWN redo 0/5000028; tli 1\n";
        let checkpoint = Record::parse(line).unwrap();
        assert_eq!((checkpoint.lsn, checkpoint.prev), (0x500_0028, 0x400_0180));
        assert!(checkpoint.is_shutdown_checkpoint(0x500_0028) && !checkpoint.is_shutdown_checkpoint(1));
        let switch = "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: 0/04000180, prev 0/04000148, desc: SWITCH \n";
        let switch = Record::parse(switch).unwrap();
        assert_eq!(last_position(0x500_0028, Some(&switch)), 0x400_0180);
        assert_eq!(last_position(0x500_0028, Some(&checkpoint)), 0x500_0028);
        assert_eq!(last_position(0x500_0028, None), 0x500_0028);
        assert_eq!(Record::parse("rmgr: Heap len"), None);
    }
}
