//! Reading containers' logs.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

use crate::sandbox::rotate;

/// Which part of a log is wanted, and in which form.
#[derive(Clone, Debug, Default)]
pub(super) struct Select {
    /// This many of the last lines.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// A time before each line.
    pub timestamps: bool,
}

/// One entry of a CRI log: when, whether its line goes on in the next entry, and the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry<'a> {
    time: &'a str,
    errors: bool,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let errors = parts.next()? == b"stderr";
    let tag = parts.next()?;
    Some(Entry { time, errors, partial: tag == b"P", text: parts.next()? })
}

impl Select {
    /// Appends what an entry shows; whether it is shown at all.
    fn show(&self, line: &[u8], continues: bool, out: &mut Vec<u8>) -> Option<bool> {
        let entry = parse(line)?;
        if let Some(since) = self.since
            && entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return None;
        }
        if self.timestamps && !continues {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        Some(entry.partial)
    }
}

/// The wanted part of a log as it is now.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(path: &Path, select: &Select) -> std::io::Result<Vec<u8>> {
    let mut follower = Follower::new(path.to_owned(), select.clone());
    follower.more()
}

/// Reads a log from its beginning, then what is added.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    select: Select,
    file: Option<BufReader<std::fs::File>>,
    /// The beginning of an entry whose end is not written yet.
    pending: Vec<u8>,
    continues: bool,
    first: bool,
}

impl Follower {
    pub fn new(path: PathBuf, select: Select) -> Self {
        Self { path, select, file: None, pending: Vec::new(), continues: false, first: true }
    }

    /// What was added since the last call; the first one gives what is there, cut to the wanted tail.
    pub fn more(&mut self) -> std::io::Result<Vec<u8>> {
        let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
        let tail = if self.first { self.select.tail } else { None };
        if self.first {
            // Open before the older ones are read: they keep what they hold under whatever name.
            let current = std::fs::File::open(&self.path)?;
            let aside = rotate::aside(&self.path).filter_map(|file| std::fs::File::open(file).ok());
            for file in aside.collect::<Vec<_>>() {
                self.file = Some(BufReader::new(file));
                self.collect(&mut lines, tail)?;
            }
            self.file = Some(BufReader::new(current));
            self.first = false;
        }
        self.collect(&mut lines, tail)?;
        if self.was_set_aside()? {
            // Whatever came between the last look and the change of files.
            self.collect(&mut lines, tail)?;
            self.file = Some(BufReader::new(std::fs::File::open(&self.path)?));
            self.collect(&mut lines, tail)?;
        }
        Ok(lines.into_iter().flatten().collect())
    }

    fn collect(&mut self, lines: &mut VecDeque<Vec<u8>>, tail: Option<usize>) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        loop {
            file.read_until(b'\n', &mut self.pending)?;
            if self.pending.pop_if(|last| *last == b'\n').is_none() {
                return Ok(());
            }
            let mut shown = Vec::new();
            if let Some(partial) = self.select.show(&self.pending, self.continues, &mut shown) {
                match lines.back_mut().filter(|_| self.continues) {
                    Some(line) => line.extend(shown),
                    None => lines.push_back(shown),
                }
                self.continues = partial;
            }
            self.pending.clear();
            if tail.is_some_and(|tail| lines.len() > tail) {
                lines.pop_front();
            }
        }
    }

    /// Whether the path leads to another file by now.
    fn was_set_aside(&mut self) -> std::io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        leads_elsewhere(&self.path, file.get_ref())
    }
}

/// Reads what is added to a log from now on, as the container wrote it.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    file: BufReader<std::fs::File>,
    pending: Vec<u8>,
}

impl Tail {
    pub fn new(path: PathBuf) -> std::io::Result<Self> {
        let mut file = std::fs::File::open(&path)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
        Ok(Self { path, file: BufReader::new(file), pending: Vec::new() })
    }

    /// What was added: whether to standard error, and the bytes.
    pub fn more(&mut self) -> std::io::Result<Vec<(bool, Vec<u8>)>> {
        let mut added = Vec::new();
        self.collect(&mut added)?;
        if leads_elsewhere(&self.path, self.file.get_ref())? {
            // Whatever came between the last look and the change of files.
            self.collect(&mut added)?;
            self.file = BufReader::new(std::fs::File::open(&self.path)?);
            self.collect(&mut added)?;
        }
        Ok(added)
    }

    fn collect(&mut self, added: &mut Vec<(bool, Vec<u8>)>) -> std::io::Result<()> {
        loop {
            self.file.read_until(b'\n', &mut self.pending)?;
            if self.pending.pop_if(|last| *last == b'\n').is_none() {
                return Ok(());
            }
            // The rest of a line of which the beginning was not read is no entry.
            if let Some(entry) = parse(&self.pending) {
                let mut text = entry.text.to_vec();
                if !entry.partial {
                    text.push(b'\n');
                }
                added.push((entry.errors, text));
            }
            self.pending.clear();
        }
    }
}

/// Whether a path leads to another file by now.
fn leads_elsewhere(path: &Path, file: &std::fs::File) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    Ok(std::fs::metadata(path).is_ok_and(|named| named.ino() != open.ino()))
}

/// Cuts an answer to a number of bytes; what is left of the number.
pub(super) fn limit(bytes: &mut Vec<u8>, left: &mut Option<usize>) {
    if let Some(left) = left {
        bytes.truncate(*left);
        *left -= bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
                       2026-01-01T00:00:02.000000000Z stderr P tw\n\
                       2026-01-01T00:00:03.000000000Z stderr F o\n\
                       2026-01-01T00:00:04.000000000Z stdout F \n\
                       2026-01-01T00:00:05.000000000Z stdout F four words are here\n";

    fn log(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn shown(select: Select) -> String {
        let (_directory, path) = log(LOG);
        String::from_utf8(read(&path, &select).unwrap()).unwrap()
    }

    #[test]
    fn selections() {
        assert_eq!(shown(Select::default()), "one\ntwo\n\nfour words are here\n");
        assert_eq!(shown(Select { tail: Some(2), ..Select::default() }), "\nfour words are here\n");
        assert_eq!(shown(Select { tail: Some(3), ..Select::default() }), "two\n\nfour words are here\n");
        assert_eq!(shown(Select { tail: Some(0), ..Select::default() }), "");
        let since = "2026-01-01T00:00:04Z".parse().ok();
        assert_eq!(shown(Select { since, ..Select::default() }), "\nfour words are here\n");
        let timed = shown(Select { timestamps: true, ..Select::default() });
        assert!(
            timed.starts_with("2026-01-01T00:00:01.000000000Z one\n2026-01-01T00:00:02.000000000Z two\n")
        );
    }

    #[test]
    fn followers_see_what_is_added_and_over_a_change_of_files() {
        let (_directory, path) = log(LOG);
        let mut follower = Follower::new(path.clone(), Select { tail: Some(1), ..Select::default() });
        let mut more = || String::from_utf8(follower.more().unwrap()).unwrap();
        assert_eq!(more(), "four words are here\n");
        assert_eq!(more(), "");
        let append = |text: &str| {
            let mut file = std::fs::File::options().append(true).create(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("2026-01-01T00:00:06.000000000Z stdout F fi");
        assert_eq!(more(), "");
        append("ve\n2026-01-01T00:00:06.000000000Z stdout F six\n");
        assert_eq!(more(), "five\nsix\n");
        append("2026-01-01T00:00:07.000000000Z stdout F seven\n");
        rotate::rotate(&path).unwrap();
        append("2026-01-01T00:00:08.000000000Z stdout F eight\n");
        assert_eq!(more(), "seven\neight\n");
        let all = String::from_utf8(read(&path, &Select::default()).unwrap()).unwrap();
        assert!(all.starts_with("one\n") && all.ends_with("seven\neight\n"), "{all}");
    }

    #[test]
    fn a_tail_begins_now_and_tells_the_streams_apart() {
        let (_directory, path) = log(LOG);
        let mut tail = Tail::new(path.clone()).unwrap();
        assert!(tail.more().unwrap().is_empty());
        let append = |text: &str| {
            let mut file = std::fs::File::options().append(true).create(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("2026-01-01T00:00:06.000000000Z stdout P on");
        assert!(tail.more().unwrap().is_empty());
        append("e\n2026-01-01T00:00:06.000000000Z stderr F two\n");
        assert_eq!(tail.more().unwrap(), [(false, b"one".to_vec()), (true, b"two\n".to_vec())]);
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        append("2026-01-01T00:00:08.000000000Z stdout F three\n");
        assert_eq!(tail.more().unwrap(), [(false, b"three\n".to_vec())]);
    }

    #[test]
    fn answers_are_cut() {
        let mut left = Some(5);
        let mut bytes = b"abc".to_vec();
        limit(&mut bytes, &mut left);
        assert_eq!((bytes.as_slice(), left), (&b"abc"[..], Some(2)));
        let mut bytes = b"def".to_vec();
        limit(&mut bytes, &mut left);
        assert_eq!((bytes.as_slice(), left), (&b"de"[..], Some(0)));
    }
}
