//! Messages out of bytes, and values out of messages. Pure.

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Header, Message};

use super::error::{ServerError, garbage};
use crate::backup::wal::position;

/// The largest message that is taken, in bytes. Those of a base backup have 32 KiB or a little more.
pub(super) const LARGEST: usize = 16 << 20;

/// Takes the first message off the buffer; `None` where it is not all there yet.
pub(super) fn frame(buffer: &mut BytesMut) -> Result<Option<Message>, ServerError> {
    // Before the parser makes room for as much as is announced.
    if let Some(header) = Header::parse(buffer).map_err(garbage)? {
        let fits = usize::try_from(header.len()).is_ok_and(|length| length <= LARGEST);
        if !fits {
            return Err(ServerError::Garbage(format!("it announces a message of {} bytes", header.len())));
        }
    }
    Message::parse(buffer).map_err(garbage)
}

/// A row's values.
pub(super) fn values(row: &DataRowBody) -> Result<Vec<Option<Bytes>>, ServerError> {
    let all = row.buffer_bytes();
    row.ranges().map(|range| Ok(range.map(|range| all.slice(range)))).collect().map_err(garbage)
}

/// A value that must be text.
pub(super) fn text(value: &[u8]) -> Result<&str, ServerError> {
    std::str::from_utf8(value).map_err(garbage)
}

/// A place in the history of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The position in the WAL, in bytes.
    pub position: u64,
    /// On this timeline.
    pub timeline: u32,
}

impl Point {
    /// Reads a row of position and timeline.
    pub(super) fn read(row: &DataRowBody) -> Result<Self, ServerError> {
        let values = values(row)?;
        let [Some(at), Some(timeline)] = values.as_slice() else {
            return Err(garbage("expected a row of WAL position and timeline"));
        };
        let (at, timeline) = (text(at)?, text(timeline)?);
        let point = position(at).zip(timeline.parse().ok().filter(|timeline| *timeline > 0));
        let (position, timeline) = point
            .ok_or_else(|| garbage(format!("{at:?} on {timeline:?} is no WAL position and timeline")))?;
        Ok(Self { position, timeline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::server::tests::bytes::{message, row};

    fn only(bytes: &[u8]) -> Result<Option<Message>, ServerError> {
        frame(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_message_is_taken_once_it_is_whole() {
        let whole = message(b'C', b"SELECT 1\0");
        for length in 0..whole.len() {
            assert!(only(&whole[..length]).unwrap().is_none(), "{length}");
        }
        let mut two = BytesMut::from([whole.clone(), whole[..3].to_vec()].concat().as_slice());
        assert!(matches!(frame(&mut two).unwrap(), Some(Message::CommandComplete(_))));
        assert!(frame(&mut two).unwrap().is_none());
        assert_eq!(two.len(), 3);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let cases: [&[u8]; 7] = [
            b"C\0\0\0\x03",
            b"C\xff\xff\xff\xff",
            // More than anybody sends: nothing is reserved for it.
            b"d\x7f\xff\xff\xff",
            b"d\x01\0\0\x01",
            b"HTTP/1.1 400 Bad Request",
            b"C\0\0\0\x05x",
            b"?\0\0\0\x04",
        ];
        for case in cases {
            assert!(matches!(only(case), Err(ServerError::Garbage(_))), "{case:?}");
        }
    }

    fn point(bytes: &[u8]) -> Result<Point, ServerError> {
        let Some(Message::DataRow(row)) = only(bytes)? else { panic!("not a row") };
        Point::read(&row)
    }

    #[test]
    fn points() {
        let good = row(&[Some("16/B374D848"), Some("3")]);
        assert_eq!(point(&good).unwrap(), Point { position: 0x16_B374_D848, timeline: 3 });
        let bad = [
            row(&[]),
            row(&[Some("0/1")]),
            row(&[Some("0/1"), None]),
            row(&[Some("0/1"), Some("1"), Some("1")]),
            row(&[Some("1"), Some("1")]),
            row(&[Some("0/1"), Some("0")]),
            row(&[Some("0/1"), Some("-1")]),
            row(&[Some("0/1"), Some("4294967296")]),
            // Of two values it has one.
            message(b'D', b"\0\x02\0\0\0\x010"),
            // A value that is longer than the message.
            message(b'D', b"\0\x01\0\0\0\x090"),
            // Bytes after the last.
            message(b'D', b"\0\x00x"),
            message(b'D', b"\0\x02\0\0\0\x01\xff\0\0\0\x011"),
        ];
        for case in bad {
            assert!(matches!(point(&case), Err(ServerError::Garbage(_))), "{case:?}");
        }
    }
}
