use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::backup::base::{Part, StoredArchive};
use crate::backup::layout::Epoch;
use crate::backup::server::Point;
use crate::backup::timeline::{Fork, History, Tree};
use crate::backup::wal::{Segment, SegmentSize};

const MIB: u64 = 1 << 20;
const SYSTEM: u64 = 7;

fn at(hour: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
}

/// A backup that took a MiB of WAL and ten minutes.
fn backup(version: &str, timeline: u32, hour: i64, mib: u64) -> Record {
    let start = Point { position: mib * MIB + 40, timeline };
    let part = Part { name: "x".to_owned(), bytes: 1, sha256: String::new() };
    Record {
        format: 1,
        id: BackupId::new(at(hour), start),
        archive: "a".to_owned(),
        database: "n/d".to_owned(),
        from: "d-0".to_owned(),
        request: None,
        started_at: at(hour),
        stopped_at: at(hour) + jiff::SignedDuration::from_mins(10),
        version: version.to_owned(),
        system_identifier: SYSTEM,
        segment_size: MIB,
        timeline,
        start_lsn: start.position,
        stop_lsn: start.position + MIB,
        size: 1,
        bytes: 1,
        archives: vec![StoredArchive { tablespace: None, parts: vec![part.clone()] }],
        manifest: part,
    }
}

/// Segments 0 to 30 of timeline 1, one an hour, with a backup at 2, 12 and 22.
fn contents() -> Contents {
    let backups = [2, 12, 22].map(|hour| backup("16.15", 1, hour, hour.unsigned_abs())).to_vec();
    let segments = (0..=30)
        .map(|n: u32| (Segment::of(1, u64::from(n) * MIB, SegmentSize::SMALLEST), at(i64::from(n) + 1)));
    let stored = Stored {
        backups,
        damaged: BTreeSet::new(),
        tree: Tree::default(),
        histories: BTreeMap::new(),
        timelines: BTreeSet::from([1]),
        segments: segments.collect(),
    };
    let epoch = Epoch { major: 16, system_identifier: SYSTEM };
    Contents {
        destination: "s3://b/x".to_owned(),
        epochs: [(epoch, stored)].into(),
        unreadable: BTreeMap::new(),
    }
}

fn stored(contents: &mut Contents) -> &mut Stored {
    contents.epochs.values_mut().next().unwrap()
}

fn wish(target: Target) -> Wish {
    Wish { backup: None, target, major: Some(16) }
}

/// The hour of the backup that is chosen.
fn chosen(contents: &Contents, target: Target) -> Result<i64, String> {
    let choice = choose(contents, &wish(target)).map_err(|error| error.to_string())?;
    Ok((choice.record.started_at.as_second() - 1_800_000_000) / 3600)
}

fn half_past(hour: i64) -> Target {
    Target::Time(at(hour) + jiff::SignedDuration::from_mins(30))
}

#[test]
fn what_was_found_damaged_is_taken_only_by_its_name() {
    let mut contents = contents();
    let ids: Vec<BackupId> = stored(&mut contents).backups.iter().map(|record| record.id.clone()).collect();
    stored(&mut contents).damaged.insert(ids[2].clone());
    assert_eq!(chosen(&contents, Target::End), Ok(12));
    let named = Wish { backup: Some(ids[2].clone()), ..wish(Target::End) };
    assert_eq!(choose(&contents, &named).unwrap().record.id, ids[2]);
    stored(&mut contents).damaged.extend(ids);
    let words = chosen(&contents, Target::End).unwrap_err();
    assert!(words.contains("found damaged when they were verified"), "{words}");
}

#[test]
fn an_unreadable_record_keeps_nobody_from_the_others() {
    let mut contents = contents();
    let id = stored(&mut contents).backups.pop().unwrap().id;
    contents.unreadable.insert(id.clone(), "it is of format 9".to_owned());
    assert_eq!(chosen(&contents, Target::End), Ok(12));
    let named = Wish { backup: Some(id.clone()), ..wish(Target::End) };
    let words = choose(&contents, &named).unwrap_err().to_string();
    assert_eq!(
        words,
        format!(
            "restore the end of the archive with backup {id}: its record cannot be read: it is of format 9"
        )
    );
    stored(&mut contents).backups.clear();
    let words = chosen(&contents, Target::End).unwrap_err();
    assert_eq!(
        words,
        format!("find a backup in s3://b/x: the record of {id} cannot be read: it is of format 9")
    );
}

#[test]
fn the_newest_that_was_complete_by_then_is_taken() {
    let contents = contents();
    for (target, hour) in [
        (Target::End, 22),
        (Target::Name("x".to_owned()), 22),
        (Target::Immediate, 22),
        (half_past(30), 22),
        (half_past(22), 22),
        (half_past(21), 12),
        (Target::Time(at(22) + jiff::SignedDuration::from_mins(10)), 22),
        // It was not complete by then.
        (Target::Time(at(22) + jiff::SignedDuration::from_mins(9)), 12),
        (half_past(2), 2),
        (Target::Lsn(23 * MIB + 40), 22),
        (Target::Lsn(23 * MIB + 39), 12),
    ] {
        assert_eq!(chosen(&contents, target.clone()), Ok(hour), "{target}");
    }
}

#[test]
fn outside_of_the_window_nothing_is_restored() {
    let contents = contents();
    for target in [half_past(1), half_past(31), Target::Lsn(MIB), Target::Lsn(31 * MIB)] {
        let said = chosen(&contents, target).unwrap_err();
        assert!(
            said.contains(
                "it can be restored to any time from 2027-01-15T10:10:00Z to about 2027-01-16T15:00:00Z"
            ),
            "{said}"
        );
    }
    assert_eq!(
        chosen(&Contents { destination: "s3://b/x".to_owned(), ..Contents::default() }, Target::End)
            .unwrap_err(),
        "find a backup in s3://b/x: there is no complete one"
    );
}

#[test]
fn wal_that_is_missing_is_not_passed_over() {
    let mut gap = contents();
    stored(&mut gap).segments.retain(|segment, _| segment.start(SegmentSize::SMALLEST) != Some(26 * MIB));
    let said = chosen(&gap, Target::End).unwrap_err();
    insta::assert_snapshot!(
        said.split_once(": WAL").unwrap().1,
        @" is missing from the archive (00000001000000000000001A is missing, at 0/1A00000, and the WAL goes on with 00000001000000000000001B); up to there, it can be restored to an earlier time or to a WAL position below 0/1A00000"
    );
    // Before it, all can be had.
    assert_eq!(chosen(&gap, half_past(25)), Ok(22));
    assert_eq!(chosen(&gap, Target::Lsn(26 * MIB - 1)), Ok(22));
    assert!(chosen(&gap, half_past(28)).unwrap_err().contains("is missing"));
    // A backup whose own WAL is not whole is none.
    let mut torn = contents();
    stored(&mut torn).segments.retain(|segment, _| segment.start(SegmentSize::SMALLEST) != Some(23 * MIB));
    assert_eq!(chosen(&torn, half_past(20)), Ok(12));
    assert!(chosen(&torn, Target::End).unwrap_err().contains("000000010000000000000017 is missing"));
    let mut bare = contents();
    stored(&mut bare).segments.clear();
    assert!(chosen(&bare, Target::End).unwrap_err().contains("is not in the archive from 0/1600000 on"));
}

#[test]
fn one_that_is_named_is_checked() {
    let contents = contents();
    let backups = &contents.epochs.values().next().unwrap().backups;
    let with = |index: usize, target| {
        choose(&contents, &Wish { backup: Some(backups[index].id.clone()), ..wish(target) })
    };
    assert_eq!(with(0, Target::End).unwrap().record, backups[0]);
    let said = with(1, half_past(11)).unwrap_err().to_string();
    assert!(said.contains("it was complete only later"), "{said}");
    let other = BackupId::new(at(0), Point { position: 0, timeline: 1 });
    let unknown =
        choose(&contents, &Wish { backup: Some(other), ..wish(Target::End) }).unwrap_err().to_string();
    assert!(backups.iter().all(|backup| unknown.contains(&backup.id.to_string())), "{unknown}");
}

#[test]
fn another_major_version_is_not_taken() {
    let mut contents = contents();
    let said = choose(&contents, &Wish { major: Some(17), ..wish(Target::End) }).unwrap_err().to_string();
    assert_eq!(
        said,
        "restore PostgreSQL 17 from s3://b/x: its backups are of PostgreSQL 16; set spec.version to a release of that"
    );
    // After an upgrade, the older cluster's are still there.
    let mut newer = stored(&mut contents).clone();
    newer.backups = vec![backup("17.1", 1, 29, 20)];
    contents.epochs.insert(Epoch { major: 17, system_identifier: 8 }, newer);
    let major = |major| choose(&contents, &Wish { major, ..wish(Target::End) }).unwrap().record.version;
    assert_eq!([major(Some(16)), major(Some(17)), major(None)], ["16.15", "17.1", "17.1"]);
}

#[test]
fn the_newest_timeline_is_followed() {
    let mut contents = contents();
    let second = History(vec![Fork { from: 1, at: 24 * MIB + 8, is_promotion: true }]);
    let stored = stored(&mut contents);
    stored.tree = Tree::new([(2, &second)]);
    stored.timelines.insert(2);
    for n in 24..=40_u64 {
        stored.segments.insert(Segment::of(2, n * MIB, SegmentSize::SMALLEST), at(41));
    }
    let choice = choose(&contents, &wish(Target::End)).unwrap();
    assert_eq!((choice.timeline, choice.chain.reach), (2, 41 * MIB));
    assert_eq!(choice.until, Some(at(41)));
}

/// Timeline 2 was opened at hour 32 by a restore in place to hour 15, and the backup at 22 is of what was given up.
fn put_back() -> Contents {
    let mut contents = contents();
    let stored = stored(&mut contents);
    let history = History(vec![Fork { from: 1, at: 15 * MIB + 100, is_promotion: false }]);
    stored.tree = Tree::new([(2, &history)]);
    stored.timelines.insert(2);
    let segments = (15..=18)
        .map(|n: u32| (Segment::of(2, u64::from(n) * MIB, SegmentSize::SMALLEST), at(i64::from(n) + 18)));
    stored.segments.extend(segments);
    contents
}

#[test]
fn what_a_restore_in_place_gave_up_is_found_by_its_time_alone() {
    let contents = put_back();
    let chosen = |target: Target| {
        let choice = choose(&contents, &Wish { backup: None, target, major: None }).unwrap();
        (choice.record.id == contents.epochs.values().next().unwrap().backups[2].id, choice.timeline)
    };
    // All of it is what the database came to, though the newest backup is of what was given up.
    assert_eq!(chosen(Target::End), (false, 2));
    assert_eq!(chosen(Target::Name("x".to_owned())), (false, 2));
    assert_eq!(chosen(Target::Lsn(17 * MIB)), (false, 2));
    // By then nothing else was there than what was given up since.
    for hour in [16, 20, 30] {
        assert_eq!(chosen(Target::Time(at(hour))).1, 1, "{hour}");
    }
    assert_eq!(chosen(Target::Time(at(34))), (false, 2));
    // A change of primary gives up nothing: before the first segment of the new timeline too, it is the way.
    let mut contents = contents.clone();
    let stored = stored(&mut contents);
    stored.segments.retain(|segment, _| {
        segment.timeline == 2 || *segment < Segment::of(1, 15 * MIB, SegmentSize::SMALLEST)
    });
    let late = stored.segments.keys().filter(|segment| segment.timeline == 1).max().copied().unwrap();
    stored.segments.insert(late, at(33));
    stored.backups.truncate(2);
    let choice =
        choose(&contents, &Wish { backup: None, target: Target::Time(at(32)), major: None }).unwrap();
    assert_eq!(choice.timeline, 2);
}

/// Timeline 2 was opened at hour 33, before what timeline 1 wrote last, in segments 29 and 30. They were archived at that hour.
fn left_behind(is_promotion: bool, archived: i64) -> Contents {
    let mut contents = contents();
    let stored = stored(&mut contents);
    let history = History(vec![Fork { from: 1, at: 29 * MIB + 100, is_promotion }]);
    stored.tree = Tree::new([(2, &history)]);
    stored.timelines.insert(2);
    stored.histories.insert(2, at(33));
    let of = |timeline, n: u32| Segment::of(timeline, u64::from(n) * MIB, SegmentSize::SMALLEST);
    stored.segments.extend((29..=31).map(|n| (of(2, n), at(36))));
    stored.segments.extend((29..=30).map(|n| (of(1, n), at(archived))));
    contents
}

#[test]
fn what_a_former_primary_archives_late_is_not_what_the_database_came_to() {
    let timeline =
        |contents: &Contents, hour| choose(contents, &wish(Target::Time(at(hour)))).unwrap().timeline;
    let late = left_behind(true, 40);
    assert_eq!([28, 31, 33, 35, 36].map(|hour| timeline(&late, hour)), [2; 5]);
    // What was archived before a replica with less was promoted was the database's own until then.
    let forced = left_behind(true, 32);
    assert_eq!([28, 31, 32, 33, 36].map(|hour| timeline(&forced, hour)), [1, 1, 1, 2, 2]);
    // So was, until a recovery to there, all that was given up.
    let recovered = left_behind(false, 40);
    assert_eq!([28, 31, 32, 33, 36].map(|hour| timeline(&recovered, hour)), [1, 1, 1, 2, 2]);
}

/// Timeline 2 came of a promotion, and timeline 3 of a recovery along it that ended before it had begun.
#[test]
fn a_recovery_gives_up_what_lies_before_an_older_promotion_too() {
    let mut contents = contents();
    let stored = stored(&mut contents);
    let promotion = Fork { from: 1, at: 25 * MIB + 100, is_promotion: true };
    let recovery = Fork { from: 2, at: 23 * MIB + 100, is_promotion: false };
    stored.tree = Tree::new([(3, &History(vec![promotion, recovery]))]);
    stored.timelines.extend([2, 3]);
    stored.segments.insert(Segment::of(3, 23 * MIB, SegmentSize::SMALLEST), at(40));
    stored.segments.retain(|segment, _| {
        *segment <= Segment::of(1, 24 * MIB, SegmentSize::SMALLEST) || segment.timeline == 3
    });
    stored.backups.truncate(2);
    let timeline =
        |contents: &Contents, hour| choose(contents, &wish(Target::Time(at(hour)))).unwrap().timeline;
    assert_eq!((timeline(&contents, 25), timeline(&contents, 40)), (1, 3));
}
