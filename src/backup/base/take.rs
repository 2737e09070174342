//! Takes a base backup.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::list::STARTED;
use super::record::{BackupId, COMMIT, FORMAT, Part, Record, StoredArchive, TablespaceRecord};
use super::upload::{Objects, Packer};
use crate::backup::archive;
use crate::backup::claim::{self, ClaimError, Owner};
use crate::backup::layout::Epoch;
use crate::backup::server::{
    BaseBackup, Compression, Connection, Event, Limits, ManifestChecksums, Mode, Options, Point, ServerError,
    Target,
};
use crate::backup::store::{Created, Store, StoreError};
use crate::backup::wal::{Segment, SegmentSize, WalFile};

/// A server that says nothing for longer is given up; it begins with a checkpoint and with adding up the sizes of files.
const LIMITS: Limits = Limits { open: Duration::from_secs(10), silence: Duration::from_secs(600) };
/// How often who takes a backup says that it still does.
pub const HEARTBEAT: Duration = Duration::from_secs(60);
/// How often the archive is looked at for WAL that is still missing.
const LOOK: Duration = Duration::from_millis(500);
/// How long WAL may take to get there: whatever waits before it goes first.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What a backup is taken of.
#[derive(Clone, Debug)]
pub struct Source {
    /// The member.
    pub member: String,
    /// How to connect to it for replication.
    pub replication: Target,
    /// How to connect to the primary, as one who may switch to another segment of WAL.
    pub primary: Target,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// PostgreSQL writes a checkpoint.
    Checkpoint,
    /// That many bytes of the cluster's files were read, of about so many in all; and that many were stored.
    Copy {
        /// Read.
        done: u64,
        /// Of.
        total: u64,
        /// Stored.
        stored: u64,
    },
    /// The WAL that makes it whole is not all in the archive yet: this segment is awaited.
    Wal(Segment),
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// PostgreSQL could not, or broke off.
    #[error("take a base backup of {member}: {source}")]
    Server {
        /// Of whom.
        member: String,
        /// In whose words.
        source: ServerError,
    },
    /// An answer that makes no sense.
    #[error("take a base backup of {member}: it says {what}")]
    Answer {
        /// Of whom.
        member: String,
        /// What it said.
        what: String,
    },
    /// Another timeline began.
    #[error(
        "finish the base backup of {member}: it began on timeline {began}, and the primary is on {now}; take another"
    )]
    Timeline {
        /// Of whom.
        member: String,
        /// Then.
        began: u32,
        /// Now.
        now: u32,
    },
    /// The WAL that belongs to it is not archived.
    #[error(
        "finish the base backup: segment {segment} is not in the archive after {} minutes; see why archiving does not go on", PATIENCE.as_secs() / 60
    )]
    Wal {
        /// The first that is missing.
        segment: Segment,
    },
    /// It could not be compressed.
    #[error("compress it: {0}")]
    Compress(#[from] io::Error),
    /// The destination is not this database's.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A backup that is being taken.
struct Taking<'a, F> {
    store: &'a Store,
    owner: &'a Owner,
    source: &'a Source,
    request: Option<String>,
    report: F,
    began: Timestamp,
    version: String,
    epoch: Epoch,
    size: SegmentSize,
}

/// Takes one, and returns its record once it is whole: sent to its end, stored, looked at, and with all WAL from its start to
/// its stop in the archive. Dropped or failed, it leaves a directory that is no backup.
///
/// # Errors
/// Where any of this is not so.
pub async fn take<F: FnMut(Step)>(
    store: &Store,
    owner: &Owner,
    source: &Source,
    request: Option<String>,
    report: F,
) -> Result<Record, TakeError> {
    claim::hold(store, owner).await?;
    let member = &source.member;
    let server = |source| TakeError::Server { member: member.clone(), source };
    let mut connection =
        Connection::open(&source.replication, &Mode::Replication, LIMITS).await.map_err(server)?;
    let system = connection.identify().await.map_err(server)?;
    let answer = |what: String| TakeError::Answer { member: member.clone(), what };
    let size = show(&mut connection, "wal_segment_size").await.map_err(server)?;
    let size = segment_size(&size).ok_or_else(|| answer(format!("that wal_segment_size is {size:?}")))?;
    let version = show(&mut connection, "server_version").await.map_err(server)?;
    // Behind a blank stands who built it.
    let version = version.split_whitespace().next().unwrap_or_default().to_owned();
    let epoch = Epoch { major: connection.major(), system_identifier: system.system_identifier };
    let began = Timestamp::now();
    let mut taking = Taking { store, owner, source, request, report, began, version, epoch, size };
    taking.run(connection).await
}

async fn show(connection: &mut Connection, setting: &str) -> Result<String, ServerError> {
    let rows = connection.query(&format!("SHOW {setting}")).await?;
    Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
}

/// `16MB`, as PostgreSQL shows it.
fn segment_size(text: &str) -> Option<SegmentSize> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    SegmentSize::new(number.parse::<u64>().ok()?.checked_mul(unit)?)
}

/// What was stored.
struct Copied {
    archives: Vec<StoredArchive>,
    manifest: Part,
    stop: Point,
    size: u64,
}

impl<'a, F: FnMut(Step)> Taking<'a, F> {
    async fn run(&mut self, connection: Connection) -> Result<Record, TakeError> {
        (self.report)(Step::Checkpoint);
        let options = Options {
            label: format!("dbctl {}", self.owner.database),
            compression: Compression::Zstd { level: 1, workers: 2 },
            // The objects have a SHA-256 of their own; the server would spend half a second a gigabyte on further ones.
            manifest_checksums: ManifestChecksums::Crc32c,
            verify_pages: true,
            max_rate: None,
        };
        let backup = connection.base_backup(&options).await.map_err(|error| self.server(error))?;
        let start = backup.start();
        let id = BackupId::new(self.began, start);
        let directory = id.directory(self.epoch);
        let result = self.fill(backup, id, &directory).await;
        if result.is_err() {
            // Otherwise whoever prunes next finds it.
            let _ = self.store.delete_directory(&directory).await;
        }
        result
    }

    async fn fill(&mut self, backup: BaseBackup, id: BackupId, directory: &str) -> Result<Record, TakeError> {
        let start = backup.start();
        self.beat(&id, directory).await?;
        let copied = self.copy(backup, &id, directory).await?;
        let stopped_at = Timestamp::now();
        if copied.stop.timeline != start.timeline {
            return Err(self.timeline(start, copied.stop.timeline));
        }
        let behind = self.switch(start).await?;
        let mut needed = segments(start, copied.stop, self.size);
        if !needed.contains(&behind) {
            needed.push(behind);
        }
        self.await_wal(needed, &id, directory).await?;
        let stored: u64 =
            copied.archives.iter().flat_map(|archive| &archive.parts).map(|part| part.bytes).sum();
        let record = Record {
            format: FORMAT,
            archive: self.owner.archive.clone(),
            database: self.owner.database.clone(),
            from: self.source.member.clone(),
            request: self.request.clone(),
            started_at: self.began,
            stopped_at,
            version: self.version.clone(),
            system_identifier: self.epoch.system_identifier,
            segment_size: self.size.bytes(),
            timeline: start.timeline,
            start_lsn: start.position,
            stop_lsn: copied.stop.position,
            size: copied.size,
            bytes: stored + copied.manifest.bytes,
            archives: copied.archives,
            manifest: copied.manifest,
            id,
        };
        self.commit(directory, record).await
    }

    fn server(&self, source: ServerError) -> TakeError {
        TakeError::Server { member: self.source.member.clone(), source }
    }

    fn timeline(&self, start: Point, now: u32) -> TakeError {
        TakeError::Timeline { member: self.source.member.clone(), began: start.timeline, now }
    }

    /// Says that it is being taken.
    async fn beat(&self, id: &BackupId, directory: &str) -> Result<(), StoreError> {
        let text = json!({
            "id": id, "archive": self.owner.archive, "from": self.source.member, "startedAt": self.began,
            "at": Timestamp::now(),
        });
        self.store.put(&format!("{directory}/{STARTED}"), Bytes::from(format!("{text:#}\n"))).await
    }

    /// Moves what the server sends into the store.
    async fn copy(
        &mut self,
        mut backup: BaseBackup,
        id: &BackupId,
        directory: &str,
    ) -> Result<Copied, TakeError> {
        let manifest = Objects::one(self.store, directory, "backup_manifest");
        let mut copy = Copy { archives: Vec::new(), current: None, manifest, stop: None, done: 0, stored: 0 };
        if let Err(error) = self.stream(&mut backup, &mut copy, id, directory).await {
            copy.abort().await;
            return Err(error);
        }
        let unfinished = TakeError::Answer {
            member: self.source.member.clone(),
            what: "that it is done, and has sent no manifest or no end".to_owned(),
        };
        let manifest = copy.manifest.finish().await?.into_iter().next();
        match (manifest.filter(|part| part.bytes > 0), copy.stop) {
            (Some(manifest), Some(stop)) => {
                Ok(Copied { archives: copy.archives, manifest, stop, size: copy.done.max(backup.size()) })
            }
            _ => Err(unfinished),
        }
    }

    async fn stream(
        &mut self,
        backup: &mut BaseBackup,
        copy: &mut Copy<'a>,
        id: &BackupId,
        directory: &str,
    ) -> Result<(), TakeError> {
        let by_server = backup.compression() != Compression::None;
        let mut beaten = tokio::time::Instant::now();
        while let Some(event) = backup.next().await.map_err(|error| self.server(error))? {
            match event {
                Event::Archive(archive) => {
                    copy.close().await?;
                    let tablespace = archive.tablespace.map(|space| TablespaceRecord {
                        oid: space.oid,
                        path: space.path.to_string_lossy().into_owned(),
                    });
                    copy.current = Some(Tar::begin(self.store, directory, tablespace, by_server)?);
                }
                Event::Data(bytes) => {
                    if let Some(tar) = &mut copy.current {
                        copy.stored += tar.put(bytes).await?;
                    }
                }
                Event::Progress(bytes) => copy.done = bytes,
                Event::Manifest(bytes) => {
                    copy.close().await?;
                    copy.manifest.put(bytes).await?;
                }
                Event::End(point) => copy.stop = Some(point),
            }
            if beaten.elapsed() > HEARTBEAT {
                self.beat(id, directory).await?;
                beaten = tokio::time::Instant::now();
            }
            let (done, stored) = (copy.done, copy.stored);
            (self.report)(Step::Copy { done, total: backup.size().max(done), stored });
        }
        Ok(())
    }

    /// Has the primary finish the segment that the backup ends in, with something behind its end: on an idle one nobody else does,
    /// and a recovery to just there knows only by a further record that it is there. Returns the segment with that.
    async fn switch(&self, start: Point) -> Result<Segment, TakeError> {
        let mode = Mode::Sql { database: "postgres".to_owned() };
        let mut primary = Connection::open(&self.source.primary, &mode, LIMITS)
            .await
            .map_err(|error| self.server(error))?;
        let message = "SELECT pg_logical_emit_message(false, 'dbctl', 'backup')";
        primary.query(message).await.map_err(|error| self.server(error))?;
        let sql = "SELECT pg_walfile_name(pg_switch_wal())";
        let rows = primary.query(sql).await.map_err(|error| self.server(error))?;
        let file = rows.into_iter().flatten().flatten().next().unwrap_or_default();
        match file.parse() {
            Ok(WalFile::Segment(segment)) if segment.timeline == start.timeline => Ok(segment),
            Ok(WalFile::Segment(segment)) => Err(self.timeline(start, segment.timeline)),
            _ => Err(TakeError::Answer {
                member: "the primary".to_owned(),
                what: format!("that its WAL is in {file:?}"),
            }),
        }
    }

    /// Waits until the archive holds all that WAL.
    async fn await_wal(
        &mut self,
        needed: Vec<Segment>,
        id: &BackupId,
        directory: &str,
    ) -> Result<(), TakeError> {
        let began = tokio::time::Instant::now();
        let mut beaten = began;
        for segment in needed {
            (self.report)(Step::Wal(segment));
            while !archive::holds(self.store, self.epoch, WalFile::Segment(segment)).await? {
                if began.elapsed() > PATIENCE {
                    return Err(TakeError::Wal { segment });
                }
                if beaten.elapsed() > HEARTBEAT {
                    self.beat(id, directory).await?;
                    beaten = tokio::time::Instant::now();
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    async fn commit(&self, directory: &str, record: Record) -> Result<Record, TakeError> {
        let key = format!("{directory}/{COMMIT}");
        let text = serde_json::to_vec_pretty(&record).map_err(io::Error::other)?;
        match self.store.create(&key, Bytes::from(text)).await? {
            Created::Mine => Ok(record),
            Created::Other(_) => Err(TakeError::Store(StoreError::Damaged {
                key,
                problem: "it is there already, although its name was made up for this backup".to_owned(),
            })),
        }
    }
}

/// The segments that hold the WAL between these points, in order.
fn segments(start: Point, stop: Point, size: SegmentSize) -> Vec<Segment> {
    // A position on the border is the end of the segment before it.
    let last = stop.position.saturating_sub(1).max(start.position) / size.bytes();
    let first = start.position / size.bytes();
    (first..=last).map(|number| Segment::of(start.timeline, number * size.bytes(), size)).collect()
}

/// What has come of a backup so far.
struct Copy<'a> {
    archives: Vec<StoredArchive>,
    current: Option<Tar<'a>>,
    manifest: Objects<'a>,
    stop: Option<Point>,
    done: u64,
    stored: u64,
}

impl Copy<'_> {
    async fn close(&mut self) -> Result<(), TakeError> {
        if let Some(tar) = self.current.take() {
            self.archives.push(tar.finish().await?);
        }
        Ok(())
    }

    /// The store does not keep parts of what will never be completed.
    async fn abort(self) {
        self.manifest.abort().await;
        if let Some(tar) = self.current {
            tar.objects.abort().await;
        }
    }
}

/// A tar file on its way.
struct Tar<'a> {
    tablespace: Option<TablespaceRecord>,
    packer: Packer,
    objects: Objects<'a>,
}

impl<'a> Tar<'a> {
    fn begin(
        store: &'a Store,
        directory: &str,
        tablespace: Option<TablespaceRecord>,
        by_server: bool,
    ) -> io::Result<Self> {
        let stem = tablespace.as_ref().map_or_else(|| "base".to_owned(), |space| space.oid.to_string());
        let objects = Objects::numbered(store, directory, &stem, ".tar.zst");
        Ok(Self { tablespace, packer: Packer::new(by_server)?, objects })
    }

    /// Returns how many bytes that are to be stored.
    async fn put(&mut self, bytes: Bytes) -> Result<u64, TakeError> {
        let packed = self.packer.put(bytes)?;
        let length = u64::try_from(packed.len()).unwrap_or_default();
        if length > 0 {
            self.objects.put(packed).await?;
        }
        Ok(length)
    }

    async fn finish(mut self) -> Result<StoredArchive, TakeError> {
        let rest = self.packer.finish()?;
        if !rest.is_empty() {
            self.objects.put(rest).await?;
        }
        Ok(StoredArchive { tablespace: self.tablespace, parts: self.objects.finish().await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::wal::position;

    #[test]
    fn postgresqls_sizes_are_read() {
        for (text, bytes) in [("16MB", Some(16 << 20)), ("1GB", Some(1 << 30)), ("1MB", Some(1 << 20))] {
            assert_eq!(segment_size(text).map(SegmentSize::bytes), bytes);
        }
        for text in ["", "16", "3MB", "16kB", "MB"] {
            assert_eq!(segment_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_backup_needs_the_segments_from_its_start_to_its_stop() {
        let size = SegmentSize::DEFAULT;
        let point = |position| Point { position, timeline: 2 };
        let names = |start, stop| {
            segments(point(start), point(stop), size).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(0x300_0028, 0x300_0100), ["000000020000000000000003"]);
        assert_eq!(names(0x300_0028, 0x400_0000), ["000000020000000000000003"]);
        assert_eq!(names(0x300_0028, 0x400_0001), ["000000020000000000000003", "000000020000000000000004"]);
        assert_eq!(position("0/3000028"), Some(0x300_0028));
    }
}
