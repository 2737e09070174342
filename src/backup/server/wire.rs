//! Messages over a connection.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::error::{Report, ServerError, Warnings};
use super::frame::frame;

/// How many bytes are asked for at once: two messages of a base backup.
const READ: usize = 64 << 10;

/// What messages go over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One end of a connection. It holds what has been read and not been asked for: some 64 KiB, or one message.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    silence: Duration,
    warnings: Warnings,
    version: Option<String>,
}

impl Wire {
    /// Over that, giving up after so long a silence.
    pub(super) fn new(stream: Box<dyn Stream>, silence: Duration) -> Self {
        Self { stream, buffer: BytesMut::new(), silence, warnings: Warnings::default(), version: None }
    }

    /// `server_version`, once the server said it.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What the server warned of since it was asked last.
    pub(super) fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// Sends these bytes; what was warned of before is forgotten.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), ServerError> {
        self.warnings = Warnings::default();
        match timeout(self.silence, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(self.lost(source)),
            Err(_) => Err(self.silent()),
        }
    }

    /// The next message; an error of the server's is one here. What it says beside is noted. May be dropped and called
    /// again: nothing is lost.
    pub(super) async fn receive(&mut self) -> Result<Message, ServerError> {
        loop {
            while let Some(message) = frame(&mut self.buffer)? {
                match message {
                    Message::NoticeResponse(body) => self.warnings.note(Report::read(body.fields())?),
                    Message::ErrorResponse(body) => {
                        let report = Box::new(Report::read(body.fields())?);
                        return Err(ServerError::Refused { report, warnings: self.warnings.clone() });
                    }
                    Message::ParameterStatus(body) => {
                        if body.name().is_ok_and(|name| name == "server_version") {
                            self.version = body.value().ok().map(str::to_owned);
                        }
                    }
                    Message::NotificationResponse(_) => {}
                    message => return Ok(message),
                }
            }
            self.buffer.reserve(READ);
            match timeout(self.silence, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => {
                    let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
                    return Err(self.lost(closed));
                }
                Ok(Ok(_)) => {}
                Ok(Err(source)) => return Err(self.lost(source)),
                Err(_) => return Err(self.silent()),
            }
        }
    }

    fn lost(&self, source: io::Error) -> ServerError {
        ServerError::Lost { source, warnings: self.warnings.clone() }
    }

    fn silent(&self) -> ServerError {
        ServerError::Silent { limit: self.silence, warnings: self.warnings.clone() }
    }
}
