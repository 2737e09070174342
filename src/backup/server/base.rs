//! A base backup as it comes.

use super::connection::Connection;
use super::copy::{Copy, Event, Step, Tablespace};
use super::error::{ServerError, Warnings};
use super::frame::Point;
use super::options::{Compression, Options};

/// A base backup that the server is sending. It is read only as fast as it is asked for, and holds some 64 KiB. Dropped, its
/// connection closes, and the server gives the backup up.
pub struct BaseBackup {
    connection: Connection,
    copy: Copy,
    compression: Compression,
    start: Point,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Coming,
    Whole,
    Failed,
}

impl Connection {
    /// Has the server begin a base backup, in the mode of replication. Where it cannot compress as asked, it is asked for
    /// less: without workers, then without compression.
    ///
    /// # Errors
    /// Where the server refuses, or the connection fails.
    pub async fn base_backup(mut self, options: &Options) -> Result<BaseBackup, ServerError> {
        let mut compression = options.compression.on(self.major());
        loop {
            let command = options.command(self.major(), compression)?;
            self.ask(&command).await?;
            let mut copy = Copy::new(self.major(), compression);
            match self.begin(&mut copy).await {
                Ok(start) => {
                    let state = State::Coming;
                    return Ok(BaseBackup { connection: self, copy, compression, start, state });
                }
                Err(error) => match error.report().and_then(|report| compression.after(report)) {
                    Some(less) => compression = less,
                    None => return Err(error),
                },
            }
            self.settle().await?;
        }
    }

    async fn begin(&mut self, copy: &mut Copy) -> Result<Point, ServerError> {
        loop {
            let message = self.wire.receive().await?;
            if let (Step::Begun, Some(start)) = (copy.take(message)?, copy.start()) {
                return Ok(start);
            }
        }
    }
}

impl BaseBackup {
    /// The checkpoint from which recovery begins.
    pub fn start(&self) -> Point {
        self.start
    }

    /// The bytes of all files, before compression, as the server estimated them.
    pub fn size(&self) -> u64 {
        self.copy.size()
    }

    /// The tablespaces outside of the data directory.
    pub fn tablespaces(&self) -> impl Iterator<Item = &Tablespace> {
        self.copy.tablespaces()
    }

    /// How the archives are compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// What the server warned of so far.
    pub fn warnings(&self) -> &Warnings {
        self.connection.wire.warnings()
    }

    /// The next part; `None` after [`Event::End`]. What came before an error is of no use. May be dropped and called again:
    /// nothing is lost.
    ///
    /// # Errors
    /// Where the server could not go on, found damaged pages (`XX001`, after everything was sent; the message names the
    /// files), or was not heard of any more.
    pub async fn next(&mut self) -> Result<Option<Event>, ServerError> {
        match self.state {
            State::Coming => {}
            State::Whole => return Ok(None),
            State::Failed => return Err(ServerError::Unfinished),
        }
        let next = self.event().await;
        match next {
            Ok(Event::End(_)) => self.state = State::Whole,
            Ok(_) => {}
            Err(_) => self.state = State::Failed,
        }
        next.map(Some)
    }

    async fn event(&mut self) -> Result<Event, ServerError> {
        loop {
            let message = self.connection.wire.receive().await?;
            if let Step::Event(event) = self.copy.take(message)? {
                return Ok(event);
            }
        }
    }
}
