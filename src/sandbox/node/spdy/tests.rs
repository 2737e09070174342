//! Both ends in one process.

use super::*;

/// The client's end, frame by frame.
struct Peer {
    connection: tokio::io::DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    pending: BytesMut,
}

impl Peer {
    fn new(connection: tokio::io::DuplexStream) -> Self {
        let encoder = Encoder::new().unwrap();
        Self { connection, encoder, decoder: Decoder::new(), pending: BytesMut::new() }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.put(&frame, &mut bytes).unwrap();
        self.connection.write_all(&bytes).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.pending).unwrap() {
                return Some(frame);
            }
            if self.connection.read_buf(&mut self.pending).await.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let headers = Headers::from([("streamtype".to_owned(), kind.to_owned())]);
        self.send(Frame::Open { stream, headers, last: false }).await;
        assert_eq!(self.next().await, Some(Frame::Reply { stream, headers: Headers::new(), last: false }));
    }
}

fn data(stream: u32, text: &'static str, last: bool) -> Frame {
    Frame::Data { stream, bytes: Bytes::from_static(text.as_bytes()), last }
}

#[tokio::test]
async fn streams_are_told_apart_and_end_one_by_one() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut streams = serve(near);
    let mut peer = Peer::new(far);
    peer.open(1, "error").await;
    peer.open(3, "data").await;
    let error = streams.next().await.unwrap();
    let mut data_stream = streams.next().await.unwrap();
    assert_eq!((error.header("streamtype"), data_stream.header("streamtype")), (Some("error"), Some("data")));
    peer.send(data(3, "one", false)).await;
    peer.send(data(3, "two", true)).await;
    assert_eq!(data_stream.input.recv().await.unwrap(), "one");
    assert_eq!(data_stream.input.recv().await.unwrap(), "two");
    assert!(data_stream.input.recv().await.is_none(), "it was the last");
    assert!(data_stream.output.send(Bytes::from_static(b"three")).await);
    assert_eq!(peer.next().await, Some(data(3, "three", false)));
    data_stream.output.finish().await;
    assert_eq!(peer.next().await, Some(data(3, "", true)));
    peer.send(Frame::Ping { id: 1 }).await;
    assert_eq!(peer.next().await, Some(Frame::Ping { id: 1 }));
    error.output.reset().await;
    assert_eq!(peer.next().await, Some(Frame::Reset { stream: 1, status: CANCEL }));
    drop((error, data_stream, streams));
    assert_eq!(peer.next().await, None, "nobody is left");
}

#[tokio::test]
async fn a_client_that_goes_ends_every_input() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut streams = serve(near);
    let mut peer = Peer::new(far);
    peer.open(1, "stdin").await;
    let mut stdin = streams.next().await.unwrap();
    drop(peer);
    assert!(stdin.input.recv().await.is_none());
    assert!(streams.next().await.is_none());
}
