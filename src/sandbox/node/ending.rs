//! What a container leaves as its last words.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use super::logs;
use crate::sandbox::provision::Identity;

const DEFAULT_PATH: &str = "/dev/termination-log";
/// Kubernetes' bounds: a message of 4096 bytes, or the log's last 2048 bytes and 80 lines.
const MAX_MESSAGE: usize = 4096;
const MAX_FALLBACK: usize = 2048;
const MAX_FALLBACK_LINES: usize = 80;

/// The path that the container knows.
pub(super) fn message_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(DEFAULT_PATH)
}

/// The file behind it.
pub(super) fn message_file(home: &Path, container: &Container) -> PathBuf {
    home.join(format!(".termination-{}", container.name))
}

/// Empties the file for the next start.
pub(super) fn prepare(file: &Path, identity: &Identity) -> Result<(), String> {
    let made = std::fs::write(file, b"").and_then(|()| identity.own(file));
    made.map_err(|error| format!("create {}: {error}", file.display()))
}

/// The message of an end.
pub(super) fn message(container: &Container, file: &Path, log: &Path, code: i32) -> Option<String> {
    let written = std::fs::read(file).unwrap_or_default();
    if !written.is_empty() {
        let kept = &written[written.len().saturating_sub(MAX_MESSAGE)..];
        return Some(String::from_utf8_lossy(kept).into_owned());
    }
    let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !falls_back || code == 0 {
        return None;
    }
    let select = logs::Select { tail: Some(MAX_FALLBACK_LINES), ..logs::Select::default() };
    let text = logs::read(log, &select).ok()?;
    let kept = &text[text.len().saturating_sub(MAX_FALLBACK)..];
    (!kept.is_empty()).then(|| String::from_utf8_lossy(kept).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_speaks_first_and_the_log_on_request() {
        let directory = tempfile::tempdir().unwrap();
        let (file, log) = (directory.path().join("m"), directory.path().join("0.log"));
        std::fs::write(&log, "2026-01-01T00:00:00.000000000Z stderr F it broke\n").unwrap();
        let silent = Container::default();
        let talkative = Container {
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        };
        assert_eq!(message(&silent, &file, &log, 1), None);
        assert_eq!(message(&talkative, &file, &log, 1).as_deref(), Some("it broke\n"));
        assert_eq!(message(&talkative, &file, &log, 0), None);
        std::fs::write(&file, format!("{}end", "x".repeat(5000))).unwrap();
        let found = message(&silent, &file, &log, 0).unwrap();
        assert_eq!((found.len(), found.ends_with("xend")), (MAX_MESSAGE, true));
    }
}
