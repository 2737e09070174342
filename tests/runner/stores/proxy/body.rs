//! Bodies on their way.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, Error>;

/// Into how many pieces a slow body's second is cut.
const PIECES: u32 = 20;

pub(super) fn boxed(body: impl hyper::body::Body<Data = Bytes, Error: Into<Error>> + Send + 'static) -> Body {
    body.map_err(Into::into).boxed_unsync()
}

fn streamed(stream: impl futures::Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Body {
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

/// So many bytes, and then an error, upon which the connection ends.
pub(super) fn truncated(body: Body, length: u64) -> Body {
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    let whole = body.into_data_stream().map_ok(move |mut bytes| {
        bytes.truncate(left);
        left -= bytes.len();
        bytes
    });
    let end = futures::stream::once(async {
        // What came before goes out first.
        tokio::task::yield_now().await;
        Err(Error::from("the rest is cut off"))
    });
    streamed(whole.try_take_while(|bytes| std::future::ready(Ok(!bytes.is_empty()))).chain(end))
}

/// One bit of that byte is another.
pub(super) fn flipped(body: Body, at: u64) -> Body {
    let mut ahead = usize::try_from(at).ok();
    streamed(body.into_data_stream().map_ok(move |bytes| match ahead {
        Some(at) if at < bytes.len() => {
            ahead = None;
            let mut changed = BytesMut::from(bytes);
            changed[at] ^= 1;
            changed.freeze()
        }
        _ => {
            ahead = ahead.map(|at| at - bytes.len());
            bytes
        }
    }))
}

/// So many bytes in a second.
pub(super) fn slowed(body: Body, rate: u32) -> Body {
    let most = usize::try_from(rate / PIECES).unwrap_or(1).max(1);
    let pieces = body.into_data_stream().map_ok(move |mut bytes| {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            pieces.push(Ok(bytes.split_to(most.min(bytes.len()))));
        }
        futures::stream::iter(pieces)
    });
    streamed(pieces.try_flatten().then(move |piece: Result<Bytes, Error>| async move {
        let length = piece.as_ref().map_or(0, Bytes::len);
        tokio::time::sleep(Duration::from_secs_f64(length as f64 / f64::from(rate.max(1)))).await;
        piece
    }))
}
