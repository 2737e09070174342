//! How much room a restored backup needs. Pure.

use crate::backup::base::Record;
use crate::backup::wal::SegmentSize;

/// Segments of WAL that PostgreSQL has at once beside those of the backup: what is fetched ahead, what it writes anew.
const SEGMENTS: u64 = 12;

/// Bytes that a volume must have free for the backup to be restored and looked at: a fifth more than the data, and the WAL
/// that makes it consistent.
pub(super) fn needed(record: &Record) -> u64 {
    let segment = record.wal_segment_size().unwrap_or(SegmentSize::DEFAULT).bytes();
    let own = record.stop_lsn.saturating_sub(record.start_lsn);
    let data = record.size.saturating_add(record.size.div_ceil(5));
    data.saturating_add(own).saturating_add(segment.saturating_mul(SEGMENTS))
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::record;
    use super::*;

    #[test]
    fn a_fifth_more_than_the_data_and_its_wal() {
        let mib = 1_u64 << 20;
        for (size, wal, expected) in [
            (0, 0, 192 * mib),
            (100 * mib, 0, 312 * mib),
            (5 << 40, 3 << 30, (6 << 40) + (3 << 30) + 192 * mib),
        ] {
            let record = record(size, wal);
            assert_eq!(needed(&record), expected, "{size}");
        }
        assert_eq!(needed(&record(u64::MAX, 1)), u64::MAX);
    }
}
