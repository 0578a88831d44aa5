//! Messages with open descriptors between two of our processes, over a Unix stream socket.
//!
//! A message is its length (4 bytes, big-endian), its bytes, and the descriptors, which travel with the first byte.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::FdFlags;
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors in one message; the kernel takes 253.
pub const MAX_DESCRIPTORS: usize = 240;

/// A message is never longer.
const MAX_LENGTH: usize = 16 << 20;

/// Sends a message. Blocks while the receiver does not read more than the socket's buffer holds.
pub fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS {
        let what = format!(
            "{} sockets; {MAX_DESCRIPTORS} can be handed over",
            descriptors.len()
        );
        return Err(io::Error::other(what));
    }
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let head = length.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    // A signal (the end of a child) is no reason to give up.
    let sent = retry_on_intr(|| {
        let head = [IoSlice::new(&head)];
        sendmsg(stream, &head, &mut control, SendFlags::empty())
    })?;
    let mut stream = stream;
    stream.write_all(&head[sent..])?;
    stream.write_all(bytes)
}

/// Receives one message; an end of the stream is [`io::ErrorKind::UnexpectedEof`].
pub fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut head = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = retry_on_intr(|| {
        let mut head = [IoSliceMut::new(&mut head)];
        recvmsg(stream, &mut head, &mut control, RecvFlags::empty())
    })?
    .bytes;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            for descriptor in some {
                rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
                descriptors.push(descriptor);
            }
        }
    }
    let mut stream = stream;
    stream.read_exact(&mut head[got..])?;
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_LENGTH {
        return Err(io::Error::other("the message is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok((bytes, descriptors))
}

/// Whether the other end of a stream is closed. Takes nothing that waits.
pub fn is_closed(stream: &UnixStream) -> bool {
    let mut byte = [0];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(stream.as_fd(), &mut byte, flags) {
        Ok((_, got)) => got == 0,
        Err(error) => error != rustix::io::Errno::AGAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive() {
        let (here, there) = UnixStream::pair().unwrap();
        let (passed, mut other) = UnixStream::pair().unwrap();
        let long = vec![7; 100_000];
        let sender = std::thread::spawn(move || {
            send(&here, b"one", &[passed.as_fd()]).unwrap();
            send(&here, &long, &[]).unwrap();
        });
        let (bytes, mut descriptors) = receive(&there).unwrap();
        assert_eq!((bytes.as_slice(), descriptors.len()), (&b"one"[..], 1));
        other.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(descriptors.remove(0))
            .read_exact(&mut byte)
            .unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(receive(&there).unwrap().0.len(), 100_000);
        sender.join().unwrap();
        assert!(is_closed(&there));
        let end = receive(&there).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
