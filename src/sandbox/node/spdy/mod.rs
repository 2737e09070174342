//! SPDY/3.1 as Kubernetes' older clients speak it, and newer ones inside a WebSocket: many streams on one connection.

mod dictionary;
mod frame;

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use frame::{Decoder, Encoder, Frame, FrameError, Headers};

/// How many pieces wait on the way in or out of a stream.
const QUEUE: usize = 64;
/// How many streams may wait to be taken.
const WAITING: usize = 64;
/// The status of a stream that is torn down because nobody is there for it any more.
const CANCEL: u32 = 5;

/// A stream that the other side opened.
#[derive(Debug)]
pub(super) struct Stream {
    headers: Headers,
    /// What comes in; it ends where the other side has said all.
    pub input: mpsc::Receiver<Bytes>,
    /// Where answers go.
    pub output: Output,
}

impl Stream {
    /// A header of its opening; names are in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The way out of a stream.
#[derive(Clone, Debug)]
pub(super) struct Output {
    stream: u32,
    frames: mpsc::Sender<Frame>,
}

impl Output {
    /// Sends; whether anybody is there.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.frames.send(Frame::Data { stream: self.stream, bytes, last: false }).await.is_ok()
    }

    /// Says that nothing more comes.
    pub async fn finish(&self) {
        let last = Frame::Data { stream: self.stream, bytes: Bytes::new(), last: true };
        let _ = self.frames.send(last).await;
    }

    /// Resolves once nobody is there.
    pub async fn closed(&self) {
        self.frames.closed().await;
    }

    /// Tears the stream down.
    pub async fn reset(&self) {
        let _ = self.frames.send(Frame::Reset { stream: self.stream, status: CANCEL }).await;
    }
}

/// Why a connection ended that should not have.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("read or write a connection: {0}")]
    Io(#[from] std::io::Error),
}

/// The streams that the other side opens.
#[derive(Debug)]
pub(super) struct Streams {
    taken: mpsc::Receiver<Stream>,
    /// Keeps the connection up while more may come.
    _frames: mpsc::Sender<Frame>,
}

impl Streams {
    /// The next one; nothing when the other side has gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.taken.recv().await
    }
}

/// Speaks SPDY on a connection. It ends when the other side closes it, or when the result and all streams' outputs are
/// gone.
pub(super) fn serve<C>(connection: C) -> Streams
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (streams, taken) = mpsc::channel(WAITING);
    let (frames, outgoing) = mpsc::channel(QUEUE);
    let (reader, writer) = tokio::io::split(connection);
    // Held weakly: a connection that nobody uses any more ends.
    let weak = frames.downgrade();
    tokio::spawn(async move {
        // The writer ends once nobody can send any more.
        let reading = read(reader, weak, streams);
        let writing = write(writer, outgoing);
        let result = tokio::select! {
            result = reading => result,
            result = writing => result,
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a SPDY connection broke");
        }
    });
    Streams { taken, _frames: frames }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Frame>,
) -> Result<(), SpdyError> {
    let mut encoder = Encoder::new()?;
    let mut bytes = BytesMut::new();
    while let Some(frame) = outgoing.recv().await {
        encoder.put(&frame, &mut bytes)?;
        // What waits anyway goes in one write.
        while let Ok(frame) = outgoing.try_recv() {
            encoder.put(&frame, &mut bytes)?;
        }
        writer.write_all_buf(&mut bytes).await?;
        writer.flush().await?;
    }
    writer.shutdown().await?;
    Ok(())
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    frames: mpsc::WeakSender<Frame>,
    streams: mpsc::Sender<Stream>,
) -> Result<(), SpdyError> {
    let mut decoder = Decoder::new();
    let mut bytes = BytesMut::with_capacity(1 << 14);
    let mut inputs: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    loop {
        while let Some(frame) = decoder.next(&mut bytes)? {
            match frame {
                Frame::Open { stream, headers, last } => {
                    let Some(frames) = frames.upgrade() else { return Ok(()) };
                    let (sender, input) = mpsc::channel(QUEUE);
                    if !last {
                        inputs.insert(stream, sender);
                    }
                    let _ = frames.send(Frame::Reply { stream, headers: Headers::new(), last: false }).await;
                    let opened = Stream { headers, input, output: Output { stream, frames } };
                    if let Err(refused) = streams.send(opened).await {
                        refused.0.output.reset().await;
                    }
                }
                Frame::Data { stream, bytes, last } => {
                    if let Some(input) = inputs.get(&stream) {
                        // A stream whose reader has gone is not listened to.
                        let gone = !bytes.is_empty() && input.send(bytes).await.is_err();
                        if last || gone {
                            inputs.remove(&stream);
                        }
                    }
                }
                Frame::Reset { stream, .. } => drop(inputs.remove(&stream)),
                // Only its own pings are echoed: those of a client are odd.
                Frame::Ping { id } if id % 2 == 1 => {
                    let Some(frames) = frames.upgrade() else { return Ok(()) };
                    let _ = frames.send(Frame::Ping { id }).await;
                }
                _ => {}
            }
        }
        if reader.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
