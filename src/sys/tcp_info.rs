//! What the kernel knows about a socket: unsent and unread bytes, the urgent mark, TCP_INFO.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

#[cfg(target_os = "linux")]
use libc::Ioctl as IoctlRequest;
#[cfg(not(target_os = "linux"))]
use libc::c_ulong as IoctlRequest;

/// Whether the next byte is the urgent one. From asm-generic/sockios.h; the libc crate has it for no Linux target.
#[cfg(target_os = "linux")]
const SIOCATMARK: IoctlRequest = 0x8905;
#[cfg(not(target_os = "linux"))]
const SIOCATMARK: IoctlRequest = libc::SIOCATMARK;

/// The part of TCP_INFO that we look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
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

/// Bytes that `send` accepted and the peer's kernel has not acknowledged (SIOCOUTQ); a sent FIN counts as one. The
/// portable build on Linux has it too, because macOS has as much.
#[cfg(target_os = "linux")]
pub fn unsent(socket: &impl AsRawFd) -> io::Result<u32> {
    ask(socket, libc::TIOCOUTQ)
}

/// Bytes that `send` accepted and the peer's kernel has not acknowledged (SO_NWRITE); a sent FIN does not count.
#[cfg(target_vendor = "apple")]
pub fn unsent(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    option(socket, libc::SOL_SOCKET, libc::SO_NWRITE, &mut bytes)?;
    Ok(bytes.max(0).unsigned_abs())
}

/// Bytes that `send` accepted and the peer's kernel has not acknowledged; not known here.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub fn unsent(_socket: &impl AsRawFd) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes that arrived and were not read (FIONREAD, which Linux also calls SIOCINQ).
pub fn unread(socket: &impl AsRawFd) -> io::Result<u32> {
    ask(socket, libc::FIONREAD)
}

/// Whether it is a listening socket (SO_ACCEPTCONN).
pub fn is_listening(socket: &impl AsRawFd) -> bool {
    let mut is: libc::c_int = 0;
    option(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, &mut is).is_ok() && is != 0
}

/// Segments that arrived behind a gap, so far: `tcpi_rcv_ooopack`, since Linux 5.4; 0 before.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn out_of_order_segments(socket: &impl AsRawFd) -> io::Result<u32> {
    /// Its offset in the kernel's structure, of which the libc crate has the first half only.
    const OFFSET: usize = 224;
    let mut info = [0_u8; OFFSET + 4];
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let [.., a, b, c, d] = info;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// Segments that arrived behind a gap; not known here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn out_of_order_segments(_socket: &impl AsRawFd) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the next byte is the urgent one.
pub fn is_at_urgent_mark(socket: &impl AsRawFd) -> bool {
    ask(socket, SIOCATMARK).is_ok_and(|is_at| is_at != 0)
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

/// Not asked for here: whether the signal comes as early as on Linux is not known, and without it only a call is lost.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn signal_urgent(_socket: &impl AsRawFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// An ioctl that answers with one number.
fn ask(socket: &impl AsRawFd, request: IoctlRequest) -> io::Result<u32> {
    let mut number: libc::c_int = 0;
    // SAFETY: the requests here write one int to the pointer, which is valid for the whole call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut number) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number.max(0).unsigned_abs())
}

/// The kernel's view of a TCP connection.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn query(socket: &impl AsRawFd) -> io::Result<TcpInfo> {
    // SAFETY: tcp_info is a struct of plain integers; all zeros is a value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(TcpInfo {
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

/// Fills `value`, a type of plain integers, with as much of the option as it holds; older kernels fill less.
fn option<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is valid for `len` bytes, and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut *value).cast(),
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
    use crate::sys::socket;

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
        assert!(!socket::is_over(&client));

        // More than the peer's buffers take: the rest is unsent.
        client.set_nonblocking(true).unwrap();
        while client.write(&[0; 65536]).is_ok() {}
        assert!(unsent(&client).unwrap() > 0);
        socket::reset_on_close(&server).unwrap();
        drop(server);
        assert!(socket::is_over(&client));
    }
}
