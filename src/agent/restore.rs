//! `dbctl agent bootstrap`: Patroni calls it in place of initdb, on the one member that makes the database, where that is
//! restored.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::aside::Beside;
use super::restoring::{Note, Reason, clear, place};
use super::store::Store as Objects;
use crate::api::Recovered;
use crate::backup::base::{BackupId, BackupIdError};
use crate::backup::restore::{Choice, RestoreError, Source, Target, Wish, restore};
use crate::backup::store::{Destination, DestinationError, Patience, Settings, Store, StoreError};

/// What is to be restored.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The destination.
    pub from: String,
    /// The base backup, if it is given.
    pub backup: Option<String>,
    /// Up to where.
    pub target: Target,
    /// The data directory.
    pub data: PathBuf,
    /// What Patroni calls the database.
    pub scope: String,
}

/// Why the database was not restored.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Not a destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// Not the name of a backup.
    #[error(transparent)]
    Backup(#[from] BackupIdError),
    /// The destination cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The volume.
    #[error("prepare the volume: {0}")]
    Volume(#[from] std::io::Error),
    /// It was not restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It was told to end.
    #[error("restore the database: it was told to stop")]
    Stopped,
}

impl BootstrapError {
    fn is_final(&self) -> bool {
        match self {
            Self::Destination(_) | Self::Backup(_) => true,
            Self::Restore(error) => error.is_final(),
            Self::Store(_) | Self::Volume(_) | Self::Stopped => false,
        }
    }
}

/// Restores into the data directory. What it leaves is a cluster that was shut down in order, or, after an error, an empty
/// directory and a note of the reason.
///
/// # Errors
/// Where that is not possible.
pub async fn bootstrap(with: &Bootstrap) -> Result<(), BootstrapError> {
    let before = Note::read(&with.data)?;
    // From here on, nothing in the directory is taken for a database before the end.
    Note::default().write(&with.data)?;
    clear(&with.data)?;
    let mut note = Note::default();
    let result = match signal(SignalKind::terminate()) {
        Ok(mut end) => tokio::select! {
            result = run(with, before.as_ref(), &mut note) => result,
            _ = end.recv() => Err(BootstrapError::Stopped),
        },
        Err(error) => Err(error.into()),
    };
    if let Err(error) = &result {
        note.failure = Some(Reason { words: error.to_string(), last: error.is_final() });
        note.write(&with.data)?;
        // What was unpacked must not take the room of the next attempt.
        clear(&with.data)?;
    }
    result
}

async fn run(with: &Bootstrap, before: Option<&Note>, note: &mut Note) -> Result<(), BootstrapError> {
    say_who(&with.scope).await;
    let destination: Destination = with.from.parse()?;
    if let Destination::Directory(path) = &destination {
        // To open it would make it.
        std::fs::metadata(path).map_err(|error| StoreError::Missing {
            doing: format!("read {destination}"),
            words: error.to_string(),
        })?;
    }
    let sockets = std::env::var_os("SOCKET_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
    let source = Source {
        store: Store::open(&destination, &Settings::of_process(), Patience::LONG)?,
        wish: Wish {
            backup: with.backup.as_deref().map(str::parse::<BackupId>).transpose()?,
            target: with.target.clone(),
            major: std::env::var("POSTGRES_MAJOR").ok().and_then(|major| major.parse().ok()),
        },
        program: std::env::current_exe()?.display().to_string(),
        parameters: parameters(&sockets.join("patroni.yml")),
        scratch: sockets,
    };
    let chosen = |choice: &Choice| {
        let Choice { record, timeline, chain, .. } = choice;
        let last = chain.last().map_or_else(|| "none".to_owned(), |last| last.to_string());
        tracing::info!(
            "restoring {} from backup {} ({}), along timeline {timeline}; WAL is there up to {last}",
            with.target,
            record.id,
            bytesize::ByteSize(record.size),
        );
        let text = format!("{} {} {} {timeline} {last}", with.from, record.id, with.target);
        note.chosen = Some(text.clone());
        // After hours, it would end in the same way.
        match before {
            Some(Note { chosen: Some(then), failure: Some(Reason { words, last: true }) })
                if *then == text =>
            {
                Err(RestoreError::Again(words.clone()))
            }
            _ => Ok(()),
        }
    };
    let restored = restore(&source, &place(&with.data), chosen).await?;
    tracing::info!("restored {}; the database begins on timeline {}", with.target, restored.timeline);
    let recovered = Recovered {
        backup: restored.choice.record.id.to_string(),
        timeline: restored.timeline,
        last: restored.last,
    };
    Beside { recovered: Some(recovered), ..Beside::read(&with.data)? }.write(&with.data)?;
    Ok(())
}

/// Notes who makes the database, for the case that it is cut short. Without an answer, nobody finds out, and it goes on.
async fn say_who(scope: &str) {
    let variable = |name| std::env::var(name).ok();
    let (Some(pod), Some(namespace)) = (variable("POD_NAME"), variable("POD_NAMESPACE")) else { return };
    if let Err(error) = Objects::new(&namespace, scope).begin(&pod).await {
        tracing::warn!("failed to note that this member makes the database: {error}");
    }
}

/// PostgreSQL's settings in the configuration that Patroni was started with.
fn parameters(config: &std::path::Path) -> BTreeMap<String, String> {
    let read = || {
        let config: Value = serde_json::from_slice(&std::fs::read(config).ok()?).ok()?;
        let parameters = config.pointer("/bootstrap/dcs/postgresql/parameters")?.as_object()?.clone();
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Some(parameters.into_iter().map(|(name, value)| (name, text(value))).collect())
    };
    read().unwrap_or_default()
}
