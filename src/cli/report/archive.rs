//! The archive: files below one directory, packed as its name says.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// The files, by path, in the order in which they are packed.
pub type Files = std::collections::BTreeMap<String, String>;

/// Writes the archive to a file that is not there yet, which its owner alone may read: `.zst` in its name compresses by
/// zstd, anything else by gzip.
///
/// # Errors
/// Where there is such a file, or it cannot be written; then what was begun is removed.
pub fn write(path: &Path, directory: &str, files: &Files, now: jiff::Timestamp) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = pack(path, file, directory, files, now).and_then(|()| Ok(std::fs::metadata(path)?.len()));
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

fn pack(path: &Path, file: File, directory: &str, files: &Files, now: jiff::Timestamp) -> io::Result<()> {
    let out = BufWriter::new(file);
    let zstd = path.extension().is_some_and(|extension| extension == "zst" || extension == "tzst");
    let mut out = if zstd {
        fill(zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?, directory, files, now)?.finish()?
    } else {
        fill(GzEncoder::new(out, Compression::default()), directory, files, now)?.finish()?
    };
    out.flush()?;
    out.get_ref().sync_all()
}

fn fill<W: Write>(out: W, directory: &str, files: &Files, now: jiff::Timestamp) -> io::Result<W> {
    let mut tar = tar::Builder::new(out);
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, format!("{directory}/{name}"), text.as_bytes())?;
    }
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn read(path: &Path) -> Vec<(String, String)> {
        let file = File::open(path).unwrap();
        let unpacked: Box<dyn io::Read> = if path.extension().unwrap() == "zst" {
            Box::new(zstd::Decoder::new(file).unwrap())
        } else {
            Box::new(flate2::read::GzDecoder::new(file))
        };
        let mut archive = tar::Archive::new(unpacked);
        let entry = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name, text)
        };
        archive.entries().unwrap().map(entry).collect()
    }

    #[test]
    fn both_forms_are_read_back_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let long = format!("{}/log.txt", "p".repeat(150));
        let files = Files::from([("a.txt".to_owned(), "ä\n".to_owned()), (long.clone(), String::new())]);
        for name in ["x.tar.gz", "x.tar.zst"] {
            let path = directory.path().join(name);
            let size = write(&path, "report", &files, jiff::Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(size, path.metadata().unwrap().len());
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(
                read(&path),
                [("report/a.txt".into(), "ä\n".into()), (format!("report/{long}"), String::new())]
            );
            let again = write(&path, "report", &files, jiff::Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        }
    }
}
