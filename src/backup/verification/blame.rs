//! Whether a failure says that a backup is damaged. Pure.
//!
//! Whoever is told that a backup is damaged acts on it, so what may be the machine's own trouble says nothing of the backup.

use crate::backup::restore::{FindError, RecoverError, RestoreError, UnpackError, VerifyError};

/// What PostgreSQL and the system say of a machine that lacks something, and of one that stops a program.
const MACHINE: [&str; 14] = [
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "Read-only file system",
    "Permission denied",
    "Too many open files",
    "out of memory",
    "could not map anonymous shared memory",
    "could not create shared memory segment",
    "could not resize shared memory segment",
    "could not bind Unix address",
    "could not fork",
    "is not available",
    "it was told to stop",
];
/// How it ends when the system kills it: for want of memory, most of the time.
const KILLED: [&str; 4] = ["signal: 9", "signal: 15", "signal 9", "signal 15"];

/// Whether these words tell of the machine, not of the data.
pub(super) fn is_machines(words: &str) -> bool {
    MACHINE.iter().chain(&KILLED).any(|known| words.contains(known))
}

/// Whether a restore that failed like this fails because of what is stored.
pub(super) fn is_damage(error: &RestoreError) -> bool {
    match error {
        RestoreError::Find(FindError::History { .. }) | RestoreError::Choose(_) => true,
        RestoreError::Unpack(UnpackError::Damaged { .. }) => true,
        // The system's errors have a number, and those of who unpacks have none.
        RestoreError::Unpack(UnpackError::Unpack { source, .. }) => {
            source.raw_os_error().is_none() && !is_machines(&source.to_string())
        }
        RestoreError::Verify(VerifyError::Refused { words, .. })
        | RestoreError::Recover(
            RecoverError::Refused { words, .. } | RecoverError::Control(VerifyError::Refused { words, .. }),
        ) => !is_machines(words),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::backup::restore::ChooseError;
    use crate::backup::store::StoreError;

    #[test]
    fn only_what_is_stored_is_to_blame() {
        let refused = |words: &str| {
            RestoreError::Verify(VerifyError::Refused {
                program: "pg_verifybackup",
                path: "/x".into(),
                words: words.to_owned(),
            })
        };
        let recover = |words: &str| {
            RestoreError::Recover(RecoverError::Refused { target: "t".to_owned(), words: words.to_owned() })
        };
        let unpack = |source: io::Error| {
            RestoreError::Unpack(UnpackError::Unpack { what: "a".to_owned(), path: "/x".into(), source })
        };
        let failed = StoreError::Failed { doing: "read x".to_owned(), words: "connection reset".to_owned() };
        for (error, damage) in [
            (refused("checksum mismatch for file \"base/1/2\""), true),
            (refused("could not open file \"base/1/2\": Permission denied"), false),
            (recover("could not locate a valid checkpoint record"), true),
            (recover("postgres ended with signal: 6 (SIGABRT)"), true),
            (recover("postgres ended with signal: 9 (SIGKILL)"), false),
            (recover("could not write to file \"x\": No space left on device"), false),
            (unpack(io::Error::other("invalid frame")), true),
            (unpack(io::Error::from_raw_os_error(28)), false),
            (
                RestoreError::Unpack(UnpackError::Damaged { key: "k".to_owned(), problem: "p".to_owned() }),
                true,
            ),
            (RestoreError::Unpack(UnpackError::Store(failed.clone())), false),
            (RestoreError::Store(failed), false),
            (RestoreError::Choose(ChooseError::Empty("d".to_owned())), true),
            (RestoreError::Recover(RecoverError::Stopped("t".to_owned())), false),
            (
                RestoreError::Verify(VerifyError::Run {
                    program: "pg_verifybackup",
                    source: io::ErrorKind::NotFound.into(),
                }),
                false,
            ),
        ] {
            assert_eq!(is_damage(&error), damage, "{error}");
        }
    }
}
