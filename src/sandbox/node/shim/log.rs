//! A container's log file: the CRI format, `TIME STREAM P|F TEXT`, where P marks a line that goes on in the next entry.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::sandbox::rotate;

/// Longest text of one entry, as container runtimes have it.
const MAX_ENTRY: usize = 16 * 1024;
/// What is kept of the output where there is no log file.
const MAX_TAIL: usize = 2048;

/// Where a container's output goes.
#[derive(Clone, Debug)]
pub(super) struct Sink(Arc<Mutex<Target>>);

#[derive(Debug)]
enum Target {
    File { file: File, path: PathBuf, size: u64 },
    Tail(Vec<u8>),
}

impl Sink {
    pub fn open(path: Option<&Path>) -> std::io::Result<Self> {
        let target = match path {
            Some(path) => {
                let file = append(path)?;
                let size = file.metadata()?.len();
                Target::File { file, path: path.to_owned(), size }
            }
            None => Target::Tail(Vec::new()),
        };
        Ok(Self(Arc::new(Mutex::new(target))))
    }

    /// Copies a stream until it ends.
    pub fn copy(&self, stream: &str, mut from: impl Read) {
        let mut buffer = [0; MAX_ENTRY];
        let mut line = Vec::new();
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => self.feed(stream, &mut line, &buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if !line.is_empty() {
            self.entry(stream, 'F', &line);
        }
    }

    /// Takes more bytes: whole lines are written, the rest waits in `line`.
    fn feed(&self, stream: &str, line: &mut Vec<u8>, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.last() == Some(&b'\n') {
                line.pop();
                while line.len() > MAX_ENTRY {
                    let rest = line.split_off(MAX_ENTRY);
                    self.entry(stream, 'P', line);
                    *line = rest;
                }
                self.entry(stream, 'F', line);
                line.clear();
            }
        }
        while line.len() >= MAX_ENTRY {
            let rest = line.split_off(MAX_ENTRY);
            self.entry(stream, 'P', line);
            *line = rest;
        }
    }

    fn entry(&self, stream: &str, tag: char, text: &[u8]) {
        let mut target = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *target {
            Target::File { file, path, size } => {
                let mut entry = format!("{:.9} {stream} {tag} ", Timestamp::now()).into_bytes();
                entry.extend_from_slice(text);
                entry.push(b'\n');
                // A full disk loses log lines, not the container.
                let _ = file.write_all(&entry);
                *size += entry.len() as u64;
                if *size > rotate::FULL
                    && rotate::rotate(path).is_ok()
                    && let Ok(fresh) = append(path)
                {
                    (*file, *size) = (fresh, 0);
                }
            }
            Target::Tail(tail) => {
                tail.extend_from_slice(text);
                tail.push(b'\n');
                let surplus = tail.len().saturating_sub(MAX_TAIL);
                tail.drain(..surplus);
            }
        }
    }

    /// The end of the output, where there is no file.
    pub fn tail(&self) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Target::File { .. } => String::new(),
            Target::Tail(tail) => String::from_utf8_lossy(tail).trim_end().to_owned(),
        }
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries without their times.
    fn entries(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_entries_and_long_ones_several() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let sink = Sink::open(Some(&path)).unwrap();
        sink.copy("stdout", &b"one\n\ntwo\nno newline"[..]);
        assert_eq!(entries(&path), ["stdout F one", "stdout F ", "stdout F two", "stdout F no newline"]);

        let long = directory.path().join("1.log");
        let sink = Sink::open(Some(&long)).unwrap();
        let text = format!("{}\nend\n", "x".repeat(MAX_ENTRY + 5));
        sink.copy("stderr", text.as_bytes());
        let found = entries(&long);
        assert_eq!(found[0], format!("stderr P {}", "x".repeat(MAX_ENTRY)));
        assert_eq!(found[1..], ["stderr F xxxxx", "stderr F end"]);
    }

    #[test]
    fn a_full_log_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        File::create(&path).unwrap().set_len(rotate::FULL).unwrap();
        let sink = Sink::open(Some(&path)).unwrap();
        sink.copy("stdout", &b"last\nfirst\n"[..]);
        let aside = rotate::aside(&path).last().unwrap();
        assert!(std::fs::metadata(aside).unwrap().len() > rotate::FULL);
        assert_eq!(entries(&path), ["stdout F first"]);
    }

    #[test]
    fn without_a_file_the_end_is_kept() {
        let sink = Sink::open(None).unwrap();
        sink.copy("stdout", format!("{}\nend\n", "x".repeat(4000)).as_bytes());
        assert!(sink.tail().ends_with("x\nend"));
        assert!(sink.tail().len() < MAX_TAIL);
    }
}
