//! How archiving goes, by the files that PostgreSQL and `dbctl agent wal-push` leave: no connection is needed for it, and
//! it can be told of a server that has no room left too.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use jiff::Timestamp;

use super::report::{ArchiveError, ArchiveReport};

/// Where PostgreSQL notes what is to be archived, below its data: an empty file `FILE.ready` each.
const STATUS: &str = "pg_wal/archive_status";
/// What follows the file's name.
const READY: &[u8] = b".ready";
/// Where `dbctl agent wal-push` notes why it failed, among what goes with the pod.
pub const PUSH_NOTE: &str = "wal-push.json";
/// Of how many files the age is read, those first by name. WAL files are named in the order of their making, but for
/// histories and for what a restore brings back.
const ASKED: usize = 64;

/// What waits, by the directories of the data and of what goes with the pod; `None` where there is no data.
pub fn report(data: &Path, sockets: &Path) -> Option<ArchiveReport> {
    let status = data.join(STATUS);
    let names = fs::read_dir(&status).ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut waiting: Vec<OsString> = names.filter(|name| name.as_encoded_bytes().ends_with(READY)).collect();
    waiting.sort_unstable();
    let modified = |name: &OsString| fs::metadata(status.join(name)).ok()?.modified().ok();
    let oldest = waiting.iter().take(ASKED).filter_map(modified).min();
    Some(ArchiveReport {
        waiting: u64::try_from(waiting.len()).unwrap_or(u64::MAX),
        oldest_waiting: oldest.and_then(|oldest| Timestamp::try_from(oldest).ok()),
        last_error: last_error(sockets),
    })
}

fn last_error(sockets: &Path) -> Option<ArchiveError> {
    serde_json::from_slice(&fs::read(sockets.join(PUSH_NOTE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn what_waits_is_counted_and_dated_by_its_oldest() {
        let root = tempfile::tempdir().unwrap();
        let (data, sockets) = (root.path().join("data"), root.path().join("run"));
        assert_eq!(report(&data, &sockets), None);
        let status = data.join(STATUS);
        fs::create_dir_all(&status).unwrap();
        fs::create_dir_all(&sockets).unwrap();
        assert_eq!(report(&data, &sockets), Some(ArchiveReport::default()));

        let touch = |name: &str, second: u64| {
            let file = fs::File::create(status.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).unwrap();
        };
        touch("000000010000000000000001.done", 5);
        touch("000000010000000000000003.ready", 30);
        touch("000000010000000000000002.ready", 20);
        touch("00000002.history.ready", 40);
        for segment in 0..3000 {
            touch(&format!("0000000100000001{segment:08X}.ready"), 100);
        }
        let found = report(&data, &sockets).unwrap();
        let oldest = found.oldest_waiting.unwrap();
        assert_eq!((found.waiting, oldest.as_second(), found.last_error), (3003, 20, None));

        let note = sockets.join(PUSH_NOTE);
        fs::write(&note, "{").unwrap();
        assert_eq!(report(&data, &sockets).unwrap().last_error, None);
        let text =
            r#"{"at":"2026-11-22T10:00:00Z","error":"put x: refused","file":"000000010000000000000002"}"#;
        fs::write(&note, text).unwrap();
        let error = report(&data, &sockets).unwrap().last_error.unwrap();
        assert_eq!(
            (error.error.as_str(), error.file.as_str()),
            ("put x: refused", "000000010000000000000002")
        );
    }
}
