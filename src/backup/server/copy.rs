//! The answer to BASE_BACKUP, message by message. Pure.
//!
//! First come the start point and the tablespaces. Since PostgreSQL 15 all the rest is one copy, in which archives, progress
//! and manifest have messages of their own; before, each archive was a copy, in the order of the tablespaces, and then the
//! manifest. At last comes the stop point. A backup is whole only after the server said that it is ready for the next
//! question: damaged pages it reports after the stop point.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::{DataRowBody, Message};

use super::error::{ServerError, garbage};
use super::frame::{Point, text, values};
use super::options::{Compression, NAMED_OPTIONS};

/// A part of a base backup, in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The tar file of a tablespace begins.
    Archive(Archive),
    /// More of it.
    Data(Bytes),
    /// How many bytes of the cluster's files the server has read, over all archives and before compression. About once a
    /// second and after each archive; never before PostgreSQL 15.
    Progress(u64),
    /// More of the manifest, which comes after all archives.
    Manifest(Bytes),
    /// The backup is whole. WAL from its start to this point makes it a cluster.
    End(Point),
}

/// A tar file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// `base.tar` or `OID.tar`, and `.zst` behind it where the server compresses.
    pub name: String,
    /// What is in it; `None` is the data directory itself, with `backup_label` and `tablespace_map`. It comes last.
    pub tablespace: Option<Tablespace>,
}

/// A tablespace outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its identifier: `pg_tblspc/OID` leads to it.
    pub oid: u32,
    /// Where it lies on the server.
    pub path: PathBuf,
}

/// What follows from a message.
#[derive(Debug)]
pub(super) enum Step {
    /// The next one is awaited.
    More,
    /// The server begins: start point and tablespaces are known.
    Begun,
    /// Something for whoever wants the backup.
    Event(Event),
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Copy {
    /// All in one copy, as since PostgreSQL 15.
    one: bool,
    compression: Compression,
    stage: Stage,
    part: Part,
    start: Option<Point>,
    stop: Option<Point>,
    archives: Vec<Announced>,
    /// Bytes of the manifest so far.
    manifest: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Tablespaces,
    /// Before the copy, or between two.
    Between,
    Copying,
    Stop,
    Done,
}

/// What data belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nothing,
    Archive,
    Manifest,
}

#[derive(Debug)]
struct Announced {
    archive: Archive,
    /// In KiB, where the server added it up.
    size: Option<u64>,
    begun: bool,
}

impl Copy {
    /// The answer of a server of that release, asked for that compression.
    pub(super) fn new(major: u32, compression: Compression) -> Self {
        Self {
            one: major >= NAMED_OPTIONS,
            compression,
            stage: Stage::Start,
            part: Part::Nothing,
            start: None,
            stop: None,
            archives: Vec::new(),
            manifest: 0,
        }
    }

    /// Where the backup begins, once that is known.
    pub(super) fn start(&self) -> Option<Point> {
        self.start
    }

    /// The bytes of all files before compression, as the server estimates them.
    pub(super) fn size(&self) -> u64 {
        let all = self.archives.iter().filter_map(|announced| announced.size);
        all.fold(0_u64, u64::saturating_add).saturating_mul(1024)
    }

    /// The tablespaces outside of the data directory.
    pub(super) fn tablespaces(&self) -> impl Iterator<Item = &Tablespace> {
        self.archives.iter().filter_map(|announced| announced.archive.tablespace.as_ref())
    }

    /// Takes the next message.
    pub(super) fn take(&mut self, message: Message) -> Result<Step, ServerError> {
        match (self.stage, message) {
            (Stage::Start | Stage::Tablespaces | Stage::Stop, Message::RowDescription(_)) => {}
            (Stage::Start, Message::DataRow(row)) => once(&mut self.start, &row)?,
            (Stage::Start, Message::CommandComplete(_)) if self.start.is_some() => {
                self.stage = Stage::Tablespaces;
            }
            (Stage::Tablespaces, Message::DataRow(row)) => self.announce(&row)?,
            (Stage::Tablespaces, Message::CommandComplete(_)) => {
                self.check_announced()?;
                self.stage = Stage::Between;
                return Ok(Step::Begun);
            }
            (Stage::Between, Message::CopyOutResponse(_)) => {
                self.stage = Stage::Copying;
                return if self.one { Ok(Step::More) } else { self.next_copy() };
            }
            (Stage::Copying, Message::CopyData(body)) if self.one => return self.tagged(body.into_bytes()),
            (Stage::Copying, Message::CopyData(body)) => return self.data(body.into_bytes()),
            (Stage::Copying, Message::CopyDone) if self.one || self.part == Part::Manifest => {
                self.check_whole()?;
                self.stage = Stage::Stop;
            }
            (Stage::Copying, Message::CopyDone) => self.stage = Stage::Between,
            (Stage::Stop, Message::DataRow(row)) => once(&mut self.stop, &row)?,
            (Stage::Stop, Message::CommandComplete(_)) if self.stop.is_some() => {}
            (Stage::Stop, Message::ReadyForQuery(_)) => {
                self.stage = Stage::Done;
                let stop = self.stop.ok_or_else(|| garbage("its backup has no end"))?;
                return Ok(Step::Event(Event::End(stop)));
            }
            (stage, _) => return Err(garbage(format!("it sent an unexpected message at {stage:?}"))),
        }
        Ok(Step::More)
    }

    /// A row of the list of tablespaces: identifier and path, which the data directory lacks, and size.
    fn announce(&mut self, row: &DataRowBody) -> Result<(), ServerError> {
        let values = values(row)?;
        let number = |value: &Bytes| text(value)?.parse::<u64>().map_err(garbage);
        let [oid, path, size] = values.as_slice() else {
            return Err(garbage("its list of tablespaces does not have three columns"));
        };
        let tablespace = match (oid, path) {
            (None, None) => None,
            (Some(oid), Some(path)) => {
                Some(Tablespace { oid: u32::try_from(number(oid)?).map_err(garbage)?, path: as_path(path) })
            }
            _ => return Err(garbage("a tablespace lacks its identifier or its path")),
        };
        let stem = tablespace.as_ref().map_or("base".to_owned(), |tablespace| tablespace.oid.to_string());
        let name = format!("{stem}.tar{}", self.compression.suffix());
        let size = size.as_ref().map(number).transpose()?;
        self.archives.push(Announced { archive: Archive { name, tablespace }, size, begun: false });
        Ok(())
    }

    /// No two archives are of one name, and one is the data directory's.
    fn check_announced(&self) -> Result<(), ServerError> {
        let mut names: Vec<&str> =
            self.archives.iter().map(|announced| announced.archive.name.as_str()).collect();
        names.sort_unstable();
        let twice = names.array_windows().any(|[one, other]| one == other);
        let base = self.archives.iter().any(|announced| announced.archive.tablespace.is_none());
        if twice || !base {
            return Err(garbage(format!("it announces the archives {}", names.join(", "))));
        }
        Ok(())
    }

    fn check_whole(&self) -> Result<(), ServerError> {
        let missing = self.archives.iter().find(|announced| !announced.begun);
        match missing {
            Some(announced) => Err(garbage(format!("its backup lacks {}", announced.archive.name))),
            None if self.manifest == 0 => Err(garbage("its backup lacks the manifest")),
            None => Ok(()),
        }
    }

    /// A copy begins that holds nothing but an archive, or the manifest.
    fn next_copy(&mut self) -> Result<Step, ServerError> {
        let Some(next) = self.archives.iter_mut().find(|announced| !announced.begun) else {
            self.part = Part::Manifest;
            return Ok(Step::More);
        };
        next.begun = true;
        self.part = Part::Archive;
        Ok(Step::Event(Event::Archive(next.archive.clone())))
    }

    /// A message that says what it is by its first byte.
    fn tagged(&mut self, mut bytes: Bytes) -> Result<Step, ServerError> {
        let kind = bytes.try_get_u8().map_err(garbage)?;
        match kind {
            b'n' if self.part != Part::Manifest => self.archive(&bytes),
            b'd' => self.data(bytes),
            b'p' => match bytes.try_get_u64() {
                Ok(done) if bytes.is_empty() => Ok(Step::Event(Event::Progress(done))),
                _ => Err(garbage("it reports progress in no number")),
            },
            b'm' if bytes.is_empty() && self.part != Part::Manifest => {
                self.part = Part::Manifest;
                Ok(Step::More)
            }
            kind => Err(garbage(format!("it sent an unexpected part {:?} of a backup", char::from(kind)))),
        }
    }

    /// Two strings with a zero behind each.
    fn archive(&mut self, bytes: &[u8]) -> Result<Step, ServerError> {
        let mut strings = bytes.split(|byte| *byte == 0);
        let (Some(name), Some(path), Some([]), None) =
            (strings.next(), strings.next(), strings.next(), strings.next())
        else {
            return Err(garbage("it announces an archive without a name and a path"));
        };
        let name = text(name)?;
        let announced =
            self.archives.iter_mut().find(|announced| announced.archive.name == name && !announced.begun);
        let announced =
            announced.ok_or_else(|| garbage(format!("it sent the archive {name:?} out of turn")))?;
        let expected = announced.archive.tablespace.as_ref().map_or_else(PathBuf::new, |t| t.path.clone());
        if as_path(path) != expected {
            return Err(garbage(format!("it moved the tablespace of {name:?}")));
        }
        announced.begun = true;
        self.part = Part::Archive;
        Ok(Step::Event(Event::Archive(announced.archive.clone())))
    }

    fn data(&mut self, bytes: Bytes) -> Result<Step, ServerError> {
        match self.part {
            Part::Nothing => Err(garbage("it sent data of no archive")),
            Part::Archive => Ok(Step::Event(Event::Data(bytes))),
            Part::Manifest => {
                self.manifest += bytes.len();
                Ok(Step::Event(Event::Manifest(bytes)))
            }
        }
    }
}

/// Paths are bytes: the server does not know in which encoding.
fn as_path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

fn once(point: &mut Option<Point>, row: &DataRowBody) -> Result<(), ServerError> {
    match point.replace(Point::read(row)?) {
        None => Ok(()),
        Some(_) => Err(garbage("it sent two points where one was expected")),
    }
}
