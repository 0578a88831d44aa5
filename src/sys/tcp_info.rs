//! What the kernel knows about a socket: unsent and unread bytes, TCP_INFO. One of two files with `unsafe` code; the other
//! is `sys/process.rs`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The part of TCP_INFO that we look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// The connection is over: reset, timed out, or closed both ways.
    pub closed: bool,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Retransmissions of the oldest unanswered segment.
    pub retransmits: u8,
    /// Segments sent and not yet acknowledged.
    pub unacked: u32,
    /// Unanswered probes, of a closed window or of keepalive.
    pub probes: u8,
    /// Time since the last acknowledgement came.
    pub last_ack: Duration,
    /// Retransmissions so far.
    pub total_retransmits: u32,
    /// Payload of a full segment.
    pub mss: u32,
}

/// Bytes that `send` accepted and the peer's kernel has not acknowledged (SIOCOUTQ); a sent FIN counts as one.
pub fn unsent(socket: &impl AsRawFd) -> io::Result<u32> {
    queue(socket, libc::TIOCOUTQ)
}

/// Bytes that arrived and were not read (SIOCINQ).
pub fn unread(socket: &impl AsRawFd) -> io::Result<u32> {
    queue(socket, libc::FIONREAD)
}

/// Segments that arrived behind a gap, so far: `tcpi_rcv_ooopack`, since Linux 5.4; 0 before.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn out_of_order_segments(socket: &impl AsRawFd) -> io::Result<u32> {
    /// Its offset in the kernel's structure, of which the libc crate has the first half only.
    const OFFSET: usize = 224;
    let mut info = [0_u8; OFFSET + 4];
    read(socket, &mut info)?;
    let [.., a, b, c, d] = info;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// Segments that arrived behind a gap; not known here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn out_of_order_segments(_socket: &impl AsRawFd) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the next byte is the urgent one (SIOCATMARK).
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn is_at_urgent_mark(socket: &impl AsRawFd) -> bool {
    /// From asm-generic/sockios.h; the libc crate has it for no Linux target.
    const SIOCATMARK: libc::Ioctl = 0x8905;
    queue(socket, SIOCATMARK).is_ok_and(|is_at| is_at != 0)
}

/// Whether the next byte is the urgent one; not asked here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn is_at_urgent_mark(_socket: &impl AsRawFd) -> bool {
    false
}

/// From here on this process gets SIGURG when urgent data is announced to the socket.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn signal_urgent(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: both calls take numbers only.
    let result = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, libc::getpid()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Not asked for here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn signal_urgent(_socket: &impl AsRawFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn queue(socket: &impl AsRawFd, request: libc::Ioctl) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int to the pointer, which is valid for the whole call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes.max(0).unsigned_abs())
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
fn queue(_socket: &impl AsRawFd, _request: libc::c_ulong) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The kernel's view of a TCP connection.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn query(socket: &impl AsRawFd) -> io::Result<TcpInfo> {
    /// `TCP_CLOSE` of the kernel's state list.
    const CLOSE: u8 = 7;
    // SAFETY: tcp_info is a struct of plain integers; all zeros is a value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    read(socket, &mut info)?;
    Ok(TcpInfo {
        closed: info.tcpi_state == CLOSE,
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        retransmits: info.tcpi_retransmits,
        unacked: info.tcpi_unacked,
        probes: info.tcpi_probes,
        last_ack: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        total_retransmits: info.tcpi_total_retrans,
        mss: info.tcpi_snd_mss,
    })
}

/// The kernel's view of a TCP connection; not known here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn query(_socket: &impl AsRawFd) -> io::Result<TcpInfo> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Fills `info`, a type of plain integers, with as much of TCP_INFO as it holds; older kernels fill less.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn read<T: Copy>(socket: &impl AsRawFd, info: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is valid for `len` bytes, and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut *info).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn counts_both_queues_and_sees_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"12345").unwrap();
        // Loopback acknowledges within the call.
        assert_eq!(unsent(&client).unwrap(), 0);
        assert_eq!(unread(&server).unwrap(), 5);
        server.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(unread(&server).unwrap(), 0);
        assert!(!query(&client).unwrap().closed);

        // More than the peer's buffers take: the rest is unsent.
        client.set_nonblocking(true).unwrap();
        while client.write(&[0; 65536]).is_ok() {}
        assert!(unsent(&client).unwrap() > 0);
        crate::sys::socket::reset_on_close(&server).unwrap();
        drop(server);
        assert!(query(&client).unwrap().closed);
    }
}
