//! `dbctl sandbox logs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use crate::cli::Context;
use crate::cli::error::{CliError, Result};
use crate::sandbox::daemon::Daemon;
use crate::sandbox::home::Home;

/// How often a followed file is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Prints the log of the sandbox's process.
///
/// # Errors
/// Where there is none.
pub fn run(context: &Context, home: &Home, follow: bool, tail: Option<usize>) -> Result<()> {
    let path = Daemon::new(home.clone()).log_path();
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            CliError::not_found(format!("there is no sandbox in {} yet", home.root().display()))
                .hint("start it: dbctl sandbox up")
        }
        _ => CliError::failed(format!("read {}: {error}", path.display())),
    };
    let mut file = File::open(&path).map_err(fail)?;
    match tail {
        Some(lines) => context.ui.data(last_lines(&file, lines).map_err(fail)?)?,
        None => copy(context, &mut file)?,
    }
    if !follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(INTERVAL);
        copy(context, &mut file)?;
        // A new start sets a large log aside.
        if let (Ok(there), Ok(open)) = (std::fs::metadata(&path), file.metadata())
            && there.ino() != open.ino()
        {
            file = File::open(&path).map_err(fail)?;
        }
    }
}

fn copy(context: &Context, file: &mut File) -> Result<()> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|error| CliError::failed(format!("read the log: {error}")))?;
    if text.is_empty() { Ok(()) } else { context.ui.data(String::from_utf8_lossy(&text)) }
}

/// The last lines; the file's place is then its end.
fn last_lines(mut file: &File, count: usize) -> io::Result<String> {
    let mut lines = VecDeque::new();
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        lines.push_back(String::from_utf8_lossy(&line).into_owned());
        line.clear();
        if lines.len() > count {
            lines.pop_front();
        }
    }
    file.seek(SeekFrom::End(0))?;
    Ok(lines.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_last_lines_are_the_last() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\nb\nc").unwrap();
        for (count, expected) in [(0, ""), (1, "c"), (2, "b\nc"), (9, "a\nb\nc")] {
            file.rewind().unwrap();
            assert_eq!(last_lines(&file, count).unwrap(), expected);
        }
    }
}
