//! What is in a segment of WAL: whose it is, and whether it is full.
//!
//! A segment is archived under its name by whoever has it, and a name stands for one content. A timeline may end in the
//! middle of a segment, though, and a standby then archives what it has of it under the full name, with whatever was in
//! the recycled file behind it. So it is not enough that each page bears its own address: the chain of records must reach
//! the segment's end, or a switch record, which leaves the rest unused.
//!
//! Layouts: PostgreSQL's `access/xlog_internal.h` and `access/xlogrecord.h`, in the byte order of the machine that wrote
//! them, which is little-endian wherever dbctl has images.

use super::name::{Segment, SegmentSize};

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
const CONTINUES: u16 = 1;
/// `XLP_LONG_HEADER`: the first page of a segment says whose it is.
const LONG: u16 = 2;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the rest of the last record was never written, and another one follows.
const OVERWRITES: u16 = 8;
/// Bytes of a page's header, and of the first page's.
const HEADER: usize = 24;
const LONG_HEADER: usize = 40;
/// Bytes of a record's header.
const RECORD: usize = 24;
/// Records begin at multiples of it (`MAXIMUM_ALIGNOF`).
const ALIGN: usize = 8;
/// The resource manager of WAL itself, and its record after which a segment is unused (`XLOG_SWITCH`).
const XLOG: u8 = 0;
const SWITCH: u8 = 0x40;

/// Whose WAL is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// PostgreSQL's major version.
    pub major: u32,
    /// What `initdb` gave the cluster.
    pub system_identifier: u64,
    /// Of each of its segments.
    pub segment_size: SegmentSize,
}

/// How much of a segment there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it: nothing can be added to it any more.
    Complete,
    /// The WAL in it ends after that many bytes, before the segment does.
    Incomplete(u64),
}

/// Not a segment of that cluster with that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Empty or cut off.
    #[error("take a file of {found} bytes for a segment: it must have {expected}")]
    Length {
        /// The size of the cluster's segments.
        expected: u64,
        /// The file's.
        found: u64,
    },
    /// Of no release that is known here.
    #[error("check WAL of PostgreSQL {0}: its format is not known")]
    Release(u32),
    /// Not WAL, or another major version's.
    #[error(
        "take the file for WAL of PostgreSQL {major}: its first page begins with {found:#06X} in place of {expected:#06X}"
    )]
    Magic {
        /// The cluster's major version.
        major: u32,
        /// Its pages' first two bytes.
        expected: u16,
        /// The file's.
        found: u16,
    },
    /// Another cluster's.
    #[error("take the file for WAL of system {expected}: it is of system {found}")]
    System {
        /// The cluster's system identifier.
        expected: u64,
        /// The file's.
        found: u64,
    },
    /// What another segment held: a file that was put aside for a later one, and that nobody wrote to, is one.
    #[error(
        "read the header of the segment: its first byte is at {found:X}, and by its name at {expected:X}"
    )]
    Elsewhere {
        /// Where its first page says that it is.
        found: u64,
        /// Where it is by its name.
        expected: u64,
    },
    /// Damaged, or built in another way.
    #[error("read the header of the segment: {0}")]
    Header(String),
}

/// The first two bytes of each page (`XLOG_PAGE_MAGIC`).
fn magic(major: u32) -> Option<u16> {
    Some(match major {
        14 => 0xD10D,
        15 => 0xD110,
        16 => 0xD113,
        17 => 0xD116,
        18 => 0xD118,
        _ => return None,
    })
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    number(bytes, at).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at).map_or(0, u64::from_le_bytes)
}

/// Looks at a file that is named as that segment.
///
/// # Errors
/// Where it cannot be that cluster's.
pub fn check(bytes: &[u8], segment: Segment, cluster: &Cluster) -> Result<Content, ContentError> {
    let expected = cluster.segment_size.bytes();
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if found != expected {
        return Err(ContentError::Length { expected, found });
    }
    let magic = magic(cluster.major).ok_or(ContentError::Release(cluster.major))?;
    let start = segment
        .start(cluster.segment_size)
        .ok_or_else(|| ContentError::Header(format!("no segment of {expected} bytes is called {segment}")))?;
    let page = header(bytes, magic, segment, start, cluster)?;
    Ok(Walk { bytes, page, magic, start }.content())
}

/// The first page's header; returns the size of pages.
fn header(
    bytes: &[u8],
    magic: u16,
    segment: Segment,
    start: u64,
    cluster: &Cluster,
) -> Result<usize, ContentError> {
    let found = u16_at(bytes, 0);
    if found != magic {
        return Err(ContentError::Magic { major: cluster.major, expected: magic, found });
    }
    let wrong = |what: String| Err(ContentError::Header(what));
    let found = u64_at(bytes, 24);
    if u16_at(bytes, 2) & LONG == 0 {
        return wrong("it is not the first page of a segment".to_owned());
    }
    if found != cluster.system_identifier {
        return Err(ContentError::System { expected: cluster.system_identifier, found });
    }
    let (timeline, address) = (u32_at(bytes, 4), u64_at(bytes, 8));
    // The first segment of a timeline begins with a copy of what was on the one before it.
    if timeline == 0 || timeline > segment.timeline {
        return wrong(format!("it is of timeline {timeline}, and its name says {}", segment.timeline));
    }
    if address != start {
        return Err(ContentError::Elsewhere { found: address, expected: start });
    }
    if u64::from(u32_at(bytes, 32)) != cluster.segment_size.bytes() {
        return wrong(format!("it is one of segments of {} bytes", u32_at(bytes, 32)));
    }
    let page = u32_at(bytes, 36);
    match usize::try_from(page) {
        Ok(page) if page.is_power_of_two() && (1 << 10..=1 << 16).contains(&page) => Ok(page),
        _ => wrong(format!("its pages have {page} bytes")),
    }
}

/// Goes from record to record.
struct Walk<'a> {
    bytes: &'a [u8],
    page: usize,
    magic: u16,
    /// Position of the segment's first byte in the WAL.
    start: u64,
}

/// Where a step over some bytes of WAL ended.
enum Step {
    /// After them, in this segment.
    To(usize),
    /// After them, in a later segment.
    Beyond,
    /// At a page that starts anew.
    Anew(usize),
    /// At a page that is not there.
    Missing(usize),
}

impl Walk<'_> {
    fn content(&self) -> Content {
        let mut at = LONG_HEADER;
        // Where the record before began, where that is known.
        let mut before = None;
        if u16_at(self.bytes, 2) & CONTINUES != 0 {
            match self.over(at, self.left(0)) {
                Step::To(next) | Step::Anew(next) => at = next,
                Step::Beyond => return Content::Complete,
                Step::Missing(at) => return self.ends(at),
            }
        }
        loop {
            at = at.next_multiple_of(ALIGN);
            if at == self.bytes.len() {
                return Content::Complete;
            }
            if at.is_multiple_of(self.page) {
                if !self.is_page(at) {
                    return self.ends(at);
                }
                at += HEADER;
            }
            let Some((length, switches)) = self.record(at, before) else { return self.ends(at) };
            if switches {
                return Content::Complete;
            }
            before = Some(self.position(at));
            match self.over(at, length) {
                Step::To(next) => at = next,
                Step::Anew(next) => (at, before) = (next, None),
                Step::Beyond => return Content::Complete,
                Step::Missing(at) => return self.ends(at),
            }
        }
    }

    fn ends(&self, at: usize) -> Content {
        Content::Incomplete(u64::try_from(at).unwrap_or(u64::MAX))
    }

    fn position(&self, at: usize) -> u64 {
        self.start + u64::try_from(at).unwrap_or_default()
    }

    /// How many bytes of a record the page that begins there goes on with.
    fn left(&self, page: usize) -> usize {
        usize::try_from(u32_at(self.bytes, page + 16)).unwrap_or(usize::MAX)
    }

    /// Whether the page that begins there was written for this place.
    fn is_page(&self, at: usize) -> bool {
        u16_at(self.bytes, at) == self.magic && u64_at(self.bytes, at + 8) == self.position(at)
    }

    /// The length of the record there, and whether nothing follows it; `None` where there is none.
    fn record(&self, at: usize, before: Option<u64>) -> Option<(usize, bool)> {
        let header = self.gather(at);
        let length = usize::try_from(u32_at(&header, 0)).ok().filter(|length| *length >= RECORD)?;
        // Records name the one before them. What an older use of the file left here names something else.
        if header.len() >= 16 {
            let named = u64_at(&header, 8);
            let fits = before.map_or(named < self.position(at), |before| named == before);
            fits.then_some(())?;
        }
        let (info, manager) = (header.get(16).copied(), header.get(17).copied());
        Some((length, manager == Some(XLOG) && info.is_some_and(|info| info & 0xF0 == SWITCH)))
    }

    /// The header of the record there, or as much of it as is in this segment: the second half may be on the next page.
    fn gather(&self, at: usize) -> Vec<u8> {
        let end = (at + RECORD).min(at.next_multiple_of(self.page)).min(self.bytes.len());
        let mut header = self.bytes.get(at..end).unwrap_or_default().to_vec();
        if header.len() < RECORD && self.is_page(end) {
            let rest = end + HEADER;
            header.extend(self.bytes.get(rest..rest + RECORD - header.len()).unwrap_or_default());
        }
        header
    }

    /// Goes over that many bytes of a record, and the headers of the pages among them.
    fn over(&self, mut at: usize, mut length: usize) -> Step {
        loop {
            let room = at.next_multiple_of(self.page) - at;
            // At the beginning of a page's content there is a page's worth of room.
            let room = if room == 0 { self.page } else { room };
            if length <= room {
                return Step::To(at + length);
            }
            (at, length) = (at + room, length - room);
            if at >= self.bytes.len() {
                return Step::Beyond;
            }
            if !self.is_page(at) {
                return Step::Missing(at);
            }
            let flags = u16_at(self.bytes, at + 2);
            if flags & OVERWRITES != 0 {
                return Step::Anew(at + HEADER);
            }
            if flags & CONTINUES == 0 || self.left(at) != length {
                return Step::Missing(at);
            }
            at += HEADER;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::wal::WalFile;

    const PAGE: usize = 8192;
    const SYSTEM: u64 = 7_412_345_678_901_234_567;
    const CLUSTER: Cluster =
        Cluster { major: 16, system_identifier: SYSTEM, segment_size: SegmentSize::SMALLEST };
    const SIZE: usize = 1 << 20;
    const START: u64 = 5 << 20;

    fn segment() -> Segment {
        Segment::of(3, START, CLUSTER.segment_size)
    }

    /// Writes WAL as PostgreSQL does, record by record.
    struct Writer {
        bytes: Vec<u8>,
        start: u64,
        at: usize,
        before: u64,
    }

    impl Writer {
        /// A segment, on top of what was in the file.
        fn over(bytes: Vec<u8>, start: u64) -> Self {
            let mut writer = Self { bytes, start, at: 0, before: start - 100 };
            writer.page(0);
            writer
        }

        fn new() -> Self {
            Self::over(vec![0; SIZE], START)
        }

        /// Begins a page that goes on with so many bytes of a record.
        fn page(&mut self, left: usize) {
            let (at, first) = (self.at, self.at == 0);
            let flags = if first { LONG } else { 0 } | if left > 0 { CONTINUES } else { 0 };
            self.bytes[at..at + PAGE].fill(0);
            let mut header = Vec::new();
            header.extend(0xD113_u16.to_le_bytes());
            header.extend(flags.to_le_bytes());
            header.extend(3_u32.to_le_bytes());
            header.extend((self.start + at as u64).to_le_bytes());
            header.extend((left as u32).to_le_bytes());
            header.extend([0; 4]);
            if first {
                header.extend(SYSTEM.to_le_bytes());
                header.extend((SIZE as u32).to_le_bytes());
                header.extend((PAGE as u32).to_le_bytes());
            }
            self.bytes[at..at + header.len()].copy_from_slice(&header);
            self.at += header.len();
        }

        fn record(&mut self, length: usize, manager: u8, info: u8) {
            let mut record = Vec::new();
            record.extend((length as u32).to_le_bytes());
            record.extend(9_u32.to_le_bytes());
            record.extend(self.before.to_le_bytes());
            record.extend([info, manager, 0, 0, 1, 2, 3, 4]);
            record.resize(length, 0xAB);
            if self.at.is_multiple_of(PAGE) && self.at < SIZE {
                self.page(0);
            }
            self.before = self.start + self.at as u64;
            let mut record = record.as_slice();
            while !record.is_empty() && self.at < SIZE {
                let room = (self.at.next_multiple_of(PAGE) - self.at).min(record.len());
                self.bytes[self.at..self.at + room].copy_from_slice(&record[..room]);
                (self.at, record) = (self.at + room, &record[room..]);
                if !record.is_empty() && self.at < SIZE {
                    self.page(record.len());
                }
            }
            self.at = self.at.next_multiple_of(ALIGN);
        }

        /// Records of many lengths until the segment is full, or so many bytes of it are.
        fn fill(&mut self, upto: usize) {
            for length in (0..).map(|turn| 24 + turn * 37 % 9_001) {
                if self.at >= upto {
                    return;
                }
                self.record(length, 10, 0);
            }
        }

        fn check(&self) -> Result<Content, ContentError> {
            check(&self.bytes, segment(), &CLUSTER)
        }
    }

    fn full() -> Writer {
        let mut writer = Writer::new();
        writer.fill(SIZE);
        writer
    }

    #[test]
    fn a_full_segment_is_complete() {
        assert_eq!(full().check(), Ok(Content::Complete));
        // One record from before its beginning to after its end.
        let mut writer = Writer { at: 0, ..Writer::new() };
        writer.page(3 * SIZE);
        for page in 1..SIZE / PAGE {
            writer.at = page * PAGE;
            writer.page(3 * SIZE - (page * (PAGE - HEADER) - (LONG_HEADER - HEADER)));
        }
        assert_eq!(writer.check(), Ok(Content::Complete));
        writer.bytes[7 * PAGE] ^= 1;
        assert_eq!(writer.check(), Ok(Content::Incomplete(7 * PAGE as u64)));
    }

    #[test]
    fn after_a_switch_the_rest_is_unused() {
        let mut writer = Writer::new();
        writer.fill(SIZE / 3);
        let end = writer.at;
        assert_eq!(writer.check(), Ok(Content::Incomplete(end as u64)));
        writer.record(RECORD, XLOG, SWITCH);
        assert_eq!(writer.check(), Ok(Content::Complete));
    }

    #[test]
    fn what_a_recycled_file_held_before_does_not_count() {
        // The same file, used for the segment before, with records that begin at the same places.
        let mut old = Writer::over(vec![0; SIZE], START - SIZE as u64);
        old.fill(SIZE);
        let old = old.bytes;
        for upto in [100, SIZE / 2, SIZE - PAGE, SIZE - 500] {
            let mut writer = Writer::over(old.clone(), START);
            writer.fill(upto);
            let end = writer.at;
            if end < SIZE {
                // Within a page, too, old records lie behind the new ones: page by page they come as they were written.
                let rest = end..end.next_multiple_of(PAGE);
                writer.bytes[rest.clone()].copy_from_slice(&old[rest]);
                let Ok(Content::Incomplete(valid)) = writer.check() else {
                    panic!("{upto}: {:?}", writer.check())
                };
                assert!(valid <= end.next_multiple_of(PAGE) as u64, "{valid} {end}");
            }
        }
    }

    #[test]
    fn a_record_that_was_never_finished_is_followed_by_another() {
        let mut writer = Writer::new();
        writer.fill(SIZE / 2);
        writer.record(3 * PAGE, 10, 0);
        let page = writer.at / PAGE * PAGE;
        writer.at = page;
        writer.page(0);
        writer.bytes[page + 2..page + 4].copy_from_slice(&OVERWRITES.to_le_bytes());
        writer.fill(SIZE);
        assert_eq!(writer.check(), Ok(Content::Complete));
    }

    #[test]
    fn what_is_not_the_clusters_is_refused() {
        let good = full().bytes;
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = good.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            check(&changed, segment(), &CLUSTER).unwrap_err().to_string()
        };
        let cases = [
            (check(&[], segment(), &CLUSTER).unwrap_err().to_string(), "a file of 0 bytes"),
            (
                check(&good[..SIZE - 1], segment(), &CLUSTER).unwrap_err().to_string(),
                "a file of 1048575 bytes",
            ),
            (with(0, &0xD118_u16.to_le_bytes()), "begins with 0xD118 in place of 0xD113"),
            (with(2, &[0, 0]), "it is not the first page"),
            (with(24, &1_u64.to_le_bytes()), "it is of system 1"),
            (with(4, &4_u32.to_le_bytes()), "of timeline 4, and its name says 3"),
            (with(4, &0_u32.to_le_bytes()), "of timeline 0"),
            (with(8, &(6_u64 << 20).to_le_bytes()), "its first byte is at 600000, and by its name at 500000"),
            (with(32, &(16_u32 << 20).to_le_bytes()), "segments of 16777216 bytes"),
            (with(36, &100_u32.to_le_bytes()), "its pages have 100 bytes"),
        ];
        for (said, expected) in cases {
            assert!(said.contains(expected), "{said} lacks {expected}");
        }
        let unknown = Cluster { major: 13, ..CLUSTER };
        assert_eq!(check(&good, segment(), &unknown), Err(ContentError::Release(13)));
        // The first segment of a timeline begins with a copy of the last one before it.
        let mut older = good.clone();
        older[4..8].copy_from_slice(&2_u32.to_le_bytes());
        assert_eq!(check(&older, segment(), &CLUSTER), Ok(Content::Complete));
        let Ok(WalFile::Segment(other)) = "000000030000000000000006".parse() else { panic!() };
        assert!(check(&good, other, &CLUSTER).is_err());
    }
}
