//! Names of the files that PostgreSQL hands to `archive_command`, and asks `restore_command` for.
//!
//! As PostgreSQL's `access/xlog_internal.h` has them: `%08X%08X%08X` of timeline, upper and lower half of a segment's
//! number; the same with `.partial`, or with `.OFFSET.backup`; and `%08X.history`.

use std::fmt;
use std::str::FromStr;

/// The sizes that `initdb --wal-segsize` takes: powers of two from 1 MiB to 1 GiB, in bytes.
const SIZES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;

/// Bytes of WAL per segment: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// The least that `initdb` takes: 1 MiB.
    pub const SMALLEST: Self = Self(1 << 20);
    /// The most that it takes: 1 GiB.
    pub const LARGEST: Self = Self(1 << 30);
    /// What `initdb` takes unless it is told otherwise: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// `None` where no cluster has segments of so many bytes.
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && SIZES.contains(&bytes)).then_some(Self(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Segments with the same upper half of their number.
    fn per_half(self) -> u64 {
        (1 << 32) / self.0
    }
}

/// A segment of WAL on a timeline. The order is that of the names: by timeline, then by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Its timeline, from 1.
    pub timeline: u32,
    /// The second group of its name.
    high: u32,
    /// The third.
    low: u32,
}

impl Segment {
    /// The segment that holds the byte at `lsn`.
    pub fn of(timeline: u32, lsn: u64, size: SegmentSize) -> Self {
        let number = lsn / size.0;
        // Both halves fit: a position has 64 bits, and a segment at least 20 of them.
        let half = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { timeline, high: half(number / size.per_half()), low: half(number % size.per_half()) }
    }

    /// The position of its first byte; `None` where no segment of that size has such a name.
    pub fn start(self, size: SegmentSize) -> Option<u64> {
        let low = u64::from(self.low);
        (low < size.per_half()).then(|| (u64::from(self.high) << 32) + low * size.0)
    }

    /// The next one on the same timeline; `None` at the end of all positions, and for a name that cannot be.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        Some(Self::of(self.timeline, self.start(size)?.checked_add(size.0)?, size))
    }

    /// The same position on another timeline.
    pub fn on(self, timeline: u32) -> Self {
        Self { timeline, ..self }
    }

    /// The first 16 characters of its name: few enough segments share them to be listed at once.
    pub fn directory(self) -> String {
        format!("{:08X}{:08X}", self.timeline, self.high)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.high, self.low)
    }
}

/// A file that is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFile {
    /// A whole segment.
    Segment(Segment),
    /// The beginning of a segment whose timeline ended in it.
    Partial(Segment),
    /// What `pg_backup_stop` leaves: where a base backup began, as an offset in bytes into the segment.
    Label(Segment, u32),
    /// Where the timelines before that one ended.
    History(u32),
}

impl WalFile {
    /// Its timeline, from 1.
    pub fn timeline(self) -> u32 {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Label(segment, _) => segment.timeline,
            Self::History(timeline) => timeline,
        }
    }
}

/// Not a name that PostgreSQL gives to a file of WAL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "read {0:?} as the name of a WAL file: expected 24 hexadecimal digits, with .partial or .XXXXXXXX.backup behind them where it \
     applies, or 8 digits and .history"
)]
pub struct NameError(pub String);

/// As PostgreSQL writes them: upper case, nothing else.
fn hex(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    (text.len() == 8 && digits).then(|| u32::from_str_radix(text, 16).ok())?
}

fn segment(text: &str) -> Option<Segment> {
    let part = |range| hex(text.get(range)?);
    let timeline = part(0..8).filter(|timeline| *timeline > 0)?;
    (text.len() == 24).then_some(Segment { timeline, high: part(8..16)?, low: part(16..24)? })
}

impl FromStr for WalFile {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let file = match name.split_once('.') {
            None => segment(name).map(Self::Segment),
            Some((stem, "partial")) => segment(stem).map(Self::Partial),
            Some((stem, "history")) => hex(stem).filter(|timeline| *timeline > 0).map(Self::History),
            Some((stem, rest)) => rest
                .strip_suffix(".backup")
                .and_then(hex)
                .zip(segment(stem))
                .map(|(offset, segment)| Self::Label(segment, offset)),
        };
        file.ok_or_else(|| NameError(name.to_owned()))
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "{segment}"),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::Label(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
            Self::History(timeline) => write!(f, "{timeline:08X}.history"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_and_written() {
        for name in [
            "000000010000000000000001",
            "0000000A00000002000000FF",
            "000000010000000000000003.partial",
            "000000010000000000000002.00000028.backup",
            "00000002.history",
        ] {
            assert_eq!(name.parse::<WalFile>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn nothing_else_is_a_name() {
        for name in [
            "",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000001000000000000000g",
            "0000000a0000000000000001",
            "000000000000000000000001",
            "+00000010000000000000001",
            "000000010000000000000001.ready",
            "000000010000000000000001.partial.zst",
            "000000010000000000000001.28.backup",
            "00000000.history",
            "2.history",
            "../000000010000000000000001",
            "0000000é000000000000001",
        ] {
            assert_eq!(name.parse::<WalFile>(), Err(NameError(name.to_owned())), "{name}");
        }
    }

    #[test]
    fn segments_follow_each_other_over_the_end_of_a_half() {
        let read = |name: &str| match name.parse() {
            Ok(WalFile::Segment(segment)) => segment,
            other => panic!("{other:?}"),
        };
        let (last, first) = (read("0000000100000000000000FF"), read("000000010000000100000000"));
        assert_eq!(last.next(SegmentSize::DEFAULT), Some(first));
        let gib = SegmentSize::new(1 << 30).unwrap();
        assert_eq!(read("000000010000000000000003").next(gib), Some(first));
        assert_eq!(last.next(gib), None, "no segment of 1 GiB has that name");
        assert_eq!(first.directory(), "0000000100000001");
    }

    #[test]
    fn sizes_are_powers_of_two_from_one_mebibyte_to_one_gibibyte() {
        for (bytes, is) in
            [(1 << 20, true), (1 << 30, true), (1 << 19, false), (1 << 31, false), (3 << 20, false)]
        {
            assert_eq!(SegmentSize::new(bytes).is_some(), is, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn a_position_lies_in_its_segment(timeline in 1..=u32::MAX, lsn in 0..u64::MAX - (1 << 31), power in 20_u32..=30) {
            let size = SegmentSize::new(1 << power).unwrap();
            let segment = Segment::of(timeline, lsn, size);
            let start = segment.start(size).unwrap();
            prop_assert!(start <= lsn && lsn - start < size.bytes());
            prop_assert_eq!(segment.next(size).unwrap().start(size), Some(start + size.bytes()));
            prop_assert_eq!(segment.to_string().parse::<WalFile>(), Ok(WalFile::Segment(segment)));
        }
    }
}
