//! SPDY/3.1 frames as bytes; pure.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;

/// Bytes before every frame's content.
const HEAD: usize = 8;
/// Longest content of a frame that is taken.
const MAX_CONTENT: usize = 1 << 22;
/// Longest block of headers, decompressed.
const MAX_HEADERS: usize = 1 << 16;
/// The sender sends nothing more on this stream.
const FIN: u8 = 1;

/// Names in lower case, and values.
pub(super) type Headers = BTreeMap<String, String>;

/// What either side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream begins.
    Open { stream: u32, headers: Headers, last: bool },
    /// The other side knows of the stream.
    Reply { stream: u32, headers: Headers, last: bool },
    /// Something on a stream.
    Data { stream: u32, bytes: Bytes, last: bool },
    /// A stream is torn down.
    Reset { stream: u32, status: u32 },
    /// To be echoed.
    Ping { id: u32 },
    /// No new streams.
    GoAway { last: u32 },
    /// What needs no answer: settings, windows, further headers.
    Other,
}

/// Why what came is no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("read a frame of {0} bytes: it is too long")]
    TooLong(usize),
    #[error("read a frame: it is cut off")]
    Short,
    #[error("read a frame of version {0}: only SPDY/3 is spoken")]
    Version(u16),
    #[error("read headers: {0}")]
    Headers(String),
}

/// Turns bytes into frames; headers are compressed over the whole connection.
pub(super) struct Decoder {
    headers: Decompress,
}

impl Decoder {
    pub fn new() -> Self {
        Self { headers: Decompress::new(true) }
    }

    /// The next frame, once all of it is there; it is taken out of the bytes.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
        let (mut first, mut second) = (&head[..4], &head[4..]);
        let (first, second) = (first.get_u32(), second.get_u32());
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if length > MAX_CONTENT {
            return Err(FrameError::TooLong(length));
        }
        if bytes.len() < HEAD + length {
            bytes.reserve(HEAD + length - bytes.len());
            return Ok(None);
        }
        bytes.advance(HEAD);
        let content = bytes.split_to(length).freeze();
        let last = flags & FIN != 0;
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: content, last }));
        }
        let version = (first >> 16 & 0x7fff) as u16;
        if version != 3 {
            return Err(FrameError::Version(version));
        }
        self.control((first & 0xffff) as u16, content, last).map(Some)
    }

    fn control(&mut self, kind: u16, mut content: Bytes, last: bool) -> Result<Frame, FrameError> {
        let number = |content: &mut Bytes| {
            content.try_get_u32().map(|n| n & 0x7fff_ffff).map_err(|_| FrameError::Short)
        };
        Ok(match kind {
            1 => {
                let stream = number(&mut content)?;
                // The stream it belongs to, its priority, its slot: of no meaning here.
                number(&mut content)?;
                content.try_get_u16().map_err(|_| FrameError::Short)?;
                Frame::Open { stream, headers: self.headers(&content)?, last }
            }
            2 => Frame::Reply { stream: number(&mut content)?, headers: self.headers(&content)?, last },
            3 => Frame::Reset { stream: number(&mut content)?, status: number(&mut content)? },
            6 => Frame::Ping { id: content.try_get_u32().map_err(|_| FrameError::Short)? },
            7 => Frame::GoAway { last: number(&mut content)? },
            8 => {
                number(&mut content)?;
                // They must be read all the same: the next ones are compressed with them in mind.
                self.headers(&content)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let number = |rest: &mut &[u8]| rest.try_get_u32().map_err(|_| FrameError::Short);
        let count = number(&mut rest)?;
        let mut headers = Headers::new();
        for _ in 0..count {
            let mut text = || -> Result<String, FrameError> {
                let length = number(&mut rest)? as usize;
                let text = rest.split_off(..length).ok_or(FrameError::Short)?;
                Ok(String::from_utf8_lossy(text).into_owned())
            };
            let (name, value) = (text()?, text()?);
            headers.insert(name.to_ascii_lowercase(), value);
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let wrong = |error: &dyn std::fmt::Display| FrameError::Headers(error.to_string());
        let mut plain = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            let before = (self.headers.total_in(), self.headers.total_out());
            match self.headers.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.headers.set_dictionary(&dictionary()).map_err(|error| wrong(&error))?;
                }
                Err(error) => return Err(wrong(&error)),
            }
            let taken = usize::try_from(self.headers.total_in() - before.0).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            if plain.len() > MAX_HEADERS {
                return Err(FrameError::Headers("they are too long".to_owned()));
            }
            let stuck = before == (self.headers.total_in(), self.headers.total_out());
            if rest.is_empty() && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if stuck && plain.len() < plain.capacity() {
                return Err(FrameError::Headers("they are cut off".to_owned()));
            }
            plain.reserve(1024);
        }
    }
}

/// Turns frames into bytes.
pub(super) struct Encoder {
    headers: Compress,
}

impl Encoder {
    pub fn new() -> Result<Self, FrameError> {
        let mut headers = Compress::new(Compression::fast(), true);
        headers.set_dictionary(&dictionary()).map_err(|error| FrameError::Headers(error.to_string()))?;
        Ok(Self { headers })
    }

    /// Appends a frame.
    pub fn put(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        let flags = |last: bool| if last { FIN } else { 0 };
        match frame {
            Frame::Data { stream, bytes, last } => {
                out.put_u32(*stream);
                head(out, flags(*last), bytes.len());
                out.put_slice(bytes);
            }
            Frame::Open { stream, headers, last } => {
                let block = self.deflate(headers)?;
                control(out, 1, flags(*last), 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::Reply { stream, headers, last } => {
                let block = self.deflate(headers)?;
                control(out, 2, flags(*last), 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::Reset { stream, status } => {
                control(out, 3, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last } => {
                control(out, 7, 0, 8);
                out.put_u32(*last);
                out.put_u32(0);
            }
            Frame::Other => {}
        }
        Ok(())
    }

    fn deflate(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let mut plain = BytesMut::new();
        let length = |text: usize| u32::try_from(text).unwrap_or(u32::MAX);
        plain.put_u32(length(headers.len()));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(length(text.len()));
            plain.put_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest: &[u8] = &plain;
        loop {
            let before = self.headers.total_in();
            let status = self.headers.compress_vec(rest, &mut block, FlushCompress::Sync);
            let status = status.map_err(|error| FrameError::Headers(error.to_string()))?;
            let taken = usize::try_from(self.headers.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            if rest.is_empty() && block.len() < block.capacity() || status == Status::StreamEnd {
                return Ok(block);
            }
            block.reserve(256);
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    head(out, flags, length);
}

fn head(out: &mut BytesMut, flags: u8, length: usize) {
    out.put_u32(u32::from(flags) << 24 | u32::try_from(length).unwrap_or(0x00ff_ffff) & 0x00ff_ffff);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let frames = [
            Frame::Open {
                stream: 1,
                headers: headers(&[("streamtype", "error"), ("port", "5432")]),
                last: true,
            },
            Frame::Open {
                stream: 3,
                headers: headers(&[("streamtype", "data"), ("port", "5432")]),
                last: false,
            },
            Frame::Reply { stream: 1, headers: Headers::new(), last: false },
            Frame::Data { stream: 3, bytes: Bytes::from_static(b"hello"), last: false },
            Frame::Data { stream: 3, bytes: Bytes::new(), last: true },
            Frame::Open { stream: 5, headers: headers(&[("long", &"x".repeat(5000))]), last: false },
            Frame::Reset { stream: 5, status: 5 },
            Frame::Ping { id: 7 },
            Frame::GoAway { last: 5 },
        ];
        let mut encoder = Encoder::new().unwrap();
        let mut sent = BytesMut::new();
        for frame in &frames {
            encoder.put(frame, &mut sent).unwrap();
        }
        for size in [1, 7, 100_000] {
            let mut decoder = Decoder::new();
            let (mut pending, mut seen) = (BytesMut::new(), Vec::new());
            for piece in sent.chunks(size) {
                pending.extend_from_slice(piece);
                while let Some(frame) = decoder.next(&mut pending).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames, "in pieces of {size}");
            assert!(pending.is_empty());
        }
    }

    /// What Go's client sends for a stream with the header `Streamtype: error`: zlib with the dictionary's checksum.
    #[test]
    fn a_compressed_block_names_the_dictionary() {
        let mut encoder = Encoder::new().unwrap();
        let block = encoder.deflate(&headers(&[("streamtype", "error")])).unwrap();
        assert_eq!(block[0] & 0x0f, 8, "deflate");
        assert_eq!(block[1] & 0x20, 0x20, "with a dictionary");
        assert_eq!(block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn nonsense_is_refused() {
        let next = |bytes: &[u8]| Decoder::new().next(&mut BytesMut::from(bytes));
        assert!(matches!(next(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(FrameError::Version(2))));
        assert!(matches!(next(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), Err(FrameError::TooLong(_))));
        assert!(matches!(next(&[0x80, 3, 0, 6, 0, 0, 0, 1, 0]), Err(FrameError::Short)));
        assert!(next(&[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9]).is_err());
        assert!(matches!(next(&[0x80, 3, 0, 4, 0, 0, 0, 0]), Ok(Some(Frame::Other))));
        assert!(matches!(next(&[0x80, 3]), Ok(None)));
    }
}
