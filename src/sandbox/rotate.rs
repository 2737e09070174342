//! Logs that are set aside when they are full, as kubelets have it: five files of ten mebibytes.

use std::io;
use std::path::{Path, PathBuf};

/// A log of this size is full.
pub const FULL: u64 = 10 << 20;
/// How many files of a log there are at most, with the one that is written.
const FILES: usize = 5;

/// The files of a log that were set aside, the oldest first, whether they are there or not.
pub fn aside(path: &Path) -> impl Iterator<Item = PathBuf> {
    (1..FILES).rev().map(|number| numbered(path, number))
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Sets a log aside as `NAME.1`, those before it one further; the oldest goes. Whoever writes it opens it anew.
///
/// # Errors
/// Where a file cannot be renamed.
pub fn rotate(path: &Path) -> io::Result<()> {
    for number in (1..FILES - 1).rev() {
        match std::fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(path, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_files_are_kept_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        for generation in 1..=7 {
            std::fs::write(&path, generation.to_string()).unwrap();
            rotate(&path).unwrap();
        }
        std::fs::write(&path, "8").unwrap();
        let kept: Vec<_> = aside(&path).map(|file| std::fs::read_to_string(file).unwrap()).collect();
        assert_eq!(kept, ["4", "5", "6", "7"]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), FILES);
    }
}
