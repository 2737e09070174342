//! The shim's standard input: lines, and open files that are passed along with them.

use std::collections::VecDeque;
use std::io::{Error, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// How many open files may come with one message.
pub const MAX_FILES: usize = 3;

/// Reads lines and what comes with them.
#[derive(Debug)]
pub(super) struct Inbox {
    socket: OwnedFd,
    pending: Vec<u8>,
    /// How much of it was searched for the end of a line.
    searched: usize,
    files: VecDeque<OwnedFd>,
}

impl Inbox {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, pending: Vec::new(), searched: 0, files: VecDeque::new() }
    }

    /// The next line; nothing when the other side has gone.
    pub fn line(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(at) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                self.searched = 0;
                return String::from_utf8(line).map(Some).map_err(Error::other);
            }
            self.searched = self.pending.len();
            if self.receive()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Files that came before the end of the last line, in order.
    pub fn files(&mut self, count: usize) -> Vec<OwnedFd> {
        self.files.drain(..count.min(self.files.len())).collect()
    }

    fn receive(&mut self) -> Result<usize, Error> {
        let mut bytes = [0; 8192];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(
                self.socket.as_fd(),
                &mut into,
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(message) => break message.bytes,
                Err(Errno::INTR) => {}
                // A plain pipe, which no files come through.
                Err(Errno::NOTSOCK) => {
                    break rustix::io::retry_on_intr(|| rustix::io::read(self.socket.as_fd(), &mut bytes))?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        self.pending.extend_from_slice(&bytes[..received]);
        Ok(received)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;

    #[test]
    fn files_come_with_their_lines() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut inbox = Inbox::new(far.into());
        near.write_all(b"one\ntw").unwrap();
        assert_eq!(inbox.line().unwrap().as_deref(), Some("one"));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        rustix::net::sendmsg(&near, &[IoSlice::new(b"o\n")], &mut ancillary, SendFlags::empty()).unwrap();
        assert_eq!(inbox.line().unwrap().as_deref(), Some("two"));
        let mut received: Vec<std::fs::File> = inbox.files(3).into_iter().map(Into::into).collect();
        assert_eq!(received.len(), 1);
        let mut text = String::new();
        received[0].rewind().unwrap();
        received[0].read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        drop(near);
        assert_eq!(inbox.line().unwrap(), None);
    }

    #[test]
    fn a_pipe_will_do() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut inbox = Inbox::new(reader.into());
        let long = "x".repeat(20_000);
        std::thread::scope(|scope| {
            scope.spawn(move || writeln!(writer, "{long}").unwrap());
            assert_eq!(inbox.line().unwrap().map(|line| line.len()), Some(20_000));
            assert_eq!(inbox.line().unwrap(), None);
        });
    }
}
