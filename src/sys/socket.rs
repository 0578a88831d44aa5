//! Socket options, receive and send, and what an error of a socket means.
//!
//! Promises that a failed call is classed once, here: a [`Fault`] of the connection, or a lack of our own.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::tcp_info;

/// How the kernel watches over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Idle time before the first keepalive probe; `None` = no keepalive.
    pub keepalive: Option<Duration>,
    /// Time between keepalive probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes until the connection is dead.
    pub keepalive_probes: u32,
    /// How long sent bytes may stay unacknowledged, or unread behind a closed window; `None` = the kernel's default.
    pub user_timeout: Option<Duration>,
}

/// A user timeout below this is for connections at rest as well: the first unanswered keepalive probe decides.
const IMPATIENT: Duration = Duration::from_secs(5);

/// How a listening socket is set up; what the kernel lets accepted sockets inherit is set here once.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenOptions<'a> {
    /// Keepalive and user timeout of accepted sockets.
    pub tcp: Option<&'a TcpOptions>,
    /// Congestion control of accepted sockets; a refusal is ignored.
    pub congestion: Option<&'a str>,
}

/// What became of a connection that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The peer reset it.
    Reset,
    /// Sent bytes were not acknowledged, or not read, in time.
    UserTimeout,
    /// Keepalive probes were not answered.
    KeepaliveTimeout,
    /// The network says there is no way.
    Unreachable,
}

// === impl TcpOptions ===

impl Default for TcpOptions {
    /// The kernel's own: neither keepalive nor a user timeout.
    fn default() -> Self {
        Self {
            keepalive: None,
            keepalive_interval: Duration::from_secs(75),
            keepalive_probes: 9,
            user_timeout: None,
        }
    }
}

impl TcpOptions {
    /// The user timeout of a connection on which nothing waits to be acknowledged: so much that all keepalive probes but
    /// the last have to be unanswered. Where one is set, Linux does not count the probes: one without an answer ends the
    /// connection once the peer has been silent for the user timeout (`tcp_keepalive_timer` in net/ipv4/tcp_timer.c). Below
    /// [`IMPATIENT`] that is what was asked for.
    pub fn resting_user_timeout(&self) -> Option<Duration> {
        let timeout = self.user_timeout?;
        let Some(idle) = self.keepalive.filter(|_| timeout >= IMPATIENT) else {
            return Some(timeout);
        };
        // It is looked at when a probe would be sent; half an interval less is over by then for certain.
        let probing = self.keepalive_interval * self.keepalive_probes.saturating_sub(1);
        Some(timeout.max((idle + probing).saturating_sub(self.keepalive_interval / 2)))
    }
}

// === impl Fault ===

impl Fault {
    /// A short code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::Reset => "reset",
            Fault::UserTimeout => "user_timeout",
            Fault::KeepaliveTimeout => "keepalive_dead",
            Fault::Unreachable => "unreachable",
        }
    }
}

/// The fault of the connection that an error reports; `None` where the error says nothing about the peer.
///
/// EPIPE is a reset too: nobody here writes after its own FIN. A timeout is told apart by [`fault_on`].
pub fn fault_of(error: &io::Error) -> Option<Fault> {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED | libc::ENOTCONN) => {
            Some(Fault::Reset)
        }
        Some(libc::ETIMEDOUT) => Some(Fault::UserTimeout),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => {
            Some(Fault::Unreachable)
        }
        // ICMP errors that the kernel hands on: protocol or port unreachable.
        Some(libc::ECONNREFUSED | libc::ENOPROTOOPT | libc::EPROTO) => Some(Fault::Unreachable),
        Some(_) => None,
        // Streams that are no sockets of ours.
        None => match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => Some(Fault::Reset),
            io::ErrorKind::TimedOut => Some(Fault::UserTimeout),
            _ => None,
        },
    }
}

/// As [`fault_of`], and tells the two timeouts apart: with nothing unacknowledged it was keepalive that gave up.
pub fn fault_on(socket: &impl AsRawFd, error: &io::Error) -> Option<Fault> {
    match fault_of(error) {
        Some(Fault::UserTimeout) if tcp_info::unsent(socket).is_ok_and(|bytes| bytes == 0) => {
            Some(Fault::KeepaliveTimeout)
        }
        other => other,
    }
}

/// Receives into `buf`. `Ok(0)` is the peer's end.
pub fn recv(socket: &impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(socket, &mut *buf, RecvFlags::empty()) {
            Ok((_, bytes)) => return Ok(bytes),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As [`recv`], and leaves the bytes in the socket.
pub fn peek(socket: &impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(socket, &mut *buf, RecvFlags::PEEK) {
            Ok((_, bytes)) => return Ok(bytes),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the peer has neither ended nor reset the connection, whatever is still unread.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn is_open(socket: &impl AsFd) -> bool {
    let over = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut poll = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec::default();
    rustix::event::poll(&mut poll, Some(&now)).is_ok() && !poll[0].revents().intersects(over)
}

/// The same, where unread bytes hide the end behind them.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn is_open(socket: &impl AsFd) -> bool {
    match peek(socket, &mut [0]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Whether the connection is over: reset, timed out, or ended both ways. Such a socket has no peer any more.
pub fn is_over(socket: &impl AsFd) -> bool {
    SockRef::from(socket).peer_addr().is_err()
}

/// Never a signal. Elsewhere it is not asked for: Rust's start-up ignores SIGPIPE.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const SEND: SendFlags = SendFlags::NOSIGNAL;
#[cfg(any(not(target_os = "linux"), entryway_portable))]
const SEND: SendFlags = SendFlags::empty();

/// Sends what the kernel takes of `buf`; never a signal.
pub fn send(socket: &impl AsFd, buf: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::net::send(socket, buf, SEND) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}

/// Sends our FIN. A connection that is over already has nothing to say it to: that is the reset's business.
pub fn finish(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).shutdown(Shutdown::Write)
}

/// Makes the next close a reset.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Resets the connection now. The send queue is thrown away.
pub fn abort(socket: tokio::net::TcpStream) {
    // A refusal leaves an ordinary close.
    let _ = reset_on_close(&socket);
    drop(socket);
}

/// Takes the pending error of a socket (SO_ERROR). It is read-once: whoever calls this must keep what it says.
pub fn take_error(socket: &impl AsFd) -> Option<io::Error> {
    SockRef::from(socket).take_error().ok().flatten()
}

/// Whether the socket would take more bytes now; asks the kernel, not the reactor.
pub fn is_writable(socket: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1..))
        && fds[0].revents().contains(PollFlags::OUT)
}

/// No waiting for more bytes before a segment is sent.
pub fn nodelay(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// Before `connect`: the ACK that ends the handshake waits for the first bytes and goes with them (tcp(7),
/// TCP_QUICKACK; HAProxy's `tcp-smart-connect`). Only for a client that has spoken: where nothing follows, the kernel
/// sends the ACK after 200 ms. Afterwards the socket acknowledges like any other.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn defer_handshake_ack(socket: &impl AsFd) -> io::Result<()> {
    rustix::net::sockopt::set_tcp_quickack(socket, false).map_err(Into::into)
}

/// Nothing to hold here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn defer_handshake_ack(_socket: &impl AsFd) -> io::Result<()> {
    Ok(())
}

/// Sets keepalive and the user timeout at rest. A connection is worth more than an option, so a refused one does not keep
/// the others from being set. The first refusal is returned.
pub fn keepalive(socket: &impl AsFd, options: &TcpOptions) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    let keepalive = match options.keepalive {
        Some(idle) => {
            let none = TcpKeepalive::new;
            let (interval, probes) = (options.keepalive_interval, options.keepalive_probes);
            let all = none()
                .with_time(idle)
                .with_interval(interval)
                .with_retries(probes);
            // It stops at the first refusal. Each on its own takes two calls more, so that comes second.
            socket_ref.set_tcp_keepalive(&all).or_else(|_refused| {
                [
                    none().with_time(idle),
                    none().with_interval(interval),
                    none().with_retries(probes),
                ]
                .iter()
                .map(|option| socket_ref.set_tcp_keepalive(option))
                .fold(Ok(()), io::Result::and)
            })
        }
        None => socket_ref.set_keepalive(false),
    };
    let user_timeout = user_timeout(socket, options.resting_user_timeout());
    keepalive.and(user_timeout)
}

/// Whether the kernel takes these options.
pub fn try_options(options: &TcpOptions) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    // A host without IPv4 is not a refusal.
    socket.map_or(Ok(()), |socket| keepalive(&socket, options))
}

/// Sets TCP_USER_TIMEOUT; `None` = the kernel's default. It also ends a connection whose peer reads nothing
/// (a window of zero) for that long: kernels since 5.11, and 5.10 with its stable fixes.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn user_timeout(socket: &impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(timeout)
}

/// Sets TCP_USER_TIMEOUT; there is none here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn user_timeout(_socket: &impl AsFd, _timeout: Option<Duration>) -> io::Result<()> {
    Ok(())
}

/// Sets the congestion control of a socket.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn congestion(socket: &impl AsFd, name: &str) -> io::Result<()> {
    SockRef::from(socket).set_tcp_congestion(name.as_bytes())
}

/// Sets the congestion control of a socket; there is none here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn congestion(_socket: &impl AsFd, _name: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What loopback legs should use instead of the system's congestion control: a non-pacing one where the system's is
/// bbr, whose timers slow local streams (1.3–1.5× in bulk, measured); else nothing. Read once at start.
pub fn loopback_congestion() -> Option<&'static str> {
    let name = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").ok()?;
    name.trim().starts_with("bbr").then_some("reno")
}

/// Sets what sockets inherit that a listening one accepts: NODELAY, the options, and that a close is no reset. A listener
/// without them is better than none.
pub fn set_inherited(listener: &impl AsFd, options: &ListenOptions<'_>) {
    // Only speed depends on it.
    let _ = nodelay(listener);
    if let Some(tcp) = options.tcp {
        // What the kernel refuses here it refuses on the upstream leg too, where it is reported.
        let _ = keepalive(listener, tcp);
    }
    if let Some(name) = options.congestion {
        // Not every kernel has it loaded; then the system's stays.
        let _ = congestion(listener, name);
    }
    let _ = SockRef::from(listener).set_linger(None);
}

/// A listening socket, non-blocking, with options that are inherited by what it accepts.
pub fn listen(
    address: SocketAddr,
    backlog: i32,
    options: &ListenOptions<'_>,
) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    set_inherited(&socket, options);
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Nobody new is answered by this listening socket from here on: a filter drops every SYN, and their kernels try again
/// until the socket is closed and refuses them. Handshakes under way still finish, and the queue can be accepted empty.
/// Without this, whoever connects between the last `accept` and the close is connected and then reset.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn drop_new_syns(listener: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;

    /// Where the flags are in a TCP header, which is where a TCP socket's filter begins to look.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    let program = [
        SockFilter::new(
            (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16,
            0,
            0,
            FLAGS,
        ),
        SockFilter::new(
            (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16,
            0,
            1,
            SYN,
        ),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&program)
}

/// There is no such thing here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn drop_new_syns(_listener: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn at_rest_one_lost_probe_is_none_unless_that_was_asked_for() {
        let resting = |keepalive: u64, interval, probes, timeout: Option<u64>| {
            let options = TcpOptions {
                keepalive: (keepalive > 0).then(|| Duration::from_secs(keepalive)),
                keepalive_interval: Duration::from_secs(interval),
                keepalive_probes: probes,
                user_timeout: timeout.map(Duration::from_secs),
            };
            options.resting_user_timeout().map(|it| it.as_millis())
        };
        assert_eq!(resting(15, 5, 3, Some(15)), Some(22_500));
        assert_eq!(resting(15, 5, 3, Some(60)), Some(60_000));
        assert_eq!(resting(15, 5, 1, Some(5)), Some(12_500));
        assert_eq!(resting(1, 1, 3, Some(1)), Some(1_000));
        assert_eq!(resting(0, 5, 3, Some(15)), Some(15_000));
        assert_eq!(resting(15, 5, 3, None), None);
    }

    #[test]
    fn options_are_inherited_from_the_listening_socket() {
        let tcp = TcpOptions {
            keepalive: Some(Duration::from_secs(15)),
            keepalive_interval: Duration::from_secs(5),
            keepalive_probes: 3,
            user_timeout: Some(Duration::from_secs(15)),
        };
        let options = ListenOptions {
            tcp: Some(&tcp),
            congestion: Some("reno"),
        };
        let listener = listen("127.0.0.1:0".parse().unwrap(), 4096, &options).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = loop {
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert_eq!(
            accepted.tcp_keepalive_time().unwrap(),
            Duration::from_secs(15)
        );
        assert_eq!(
            accepted.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(5)
        );
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
        // There are neither elsewhere.
        #[cfg(all(target_os = "linux", not(entryway_portable)))]
        {
            let timeout = accepted.tcp_user_timeout().unwrap();
            // The second probe, after 20 s, has to be unanswered as well: less would end the connection at the first.
            assert_eq!(timeout, Some(Duration::from_millis(22_500)));
            let congestion = accepted.tcp_congestion().unwrap();
            assert!(congestion.starts_with(b"reno"), "{congestion:?}");
        }
    }

    // The refusal is the Linux kernel's.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_refused_option_leaves_the_others_and_the_listener() {
        let refused = TcpOptions {
            // The kernel's limit is 127.
            keepalive_probes: 200,
            keepalive: Some(Duration::from_secs(15)),
            keepalive_interval: Duration::from_secs(5),
            user_timeout: Some(Duration::from_secs(7)),
        };
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(keepalive(&socket, &refused).is_err());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(15)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(5)
        );
        #[cfg(not(entryway_portable))]
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            refused.resting_user_timeout()
        );
        let options = ListenOptions {
            tcp: Some(&refused),
            congestion: Some("no such thing"),
        };
        listen("127.0.0.1:0".parse().unwrap(), 16, &options).unwrap();
    }

    #[test]
    fn newcomers_are_held_and_refused_and_the_queue_is_served() {
        let listener = listen(
            "127.0.0.1:0".parse().unwrap(),
            16,
            &ListenOptions::default(),
        );
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = TcpStream::connect(address).unwrap();
        let filtered = match drop_new_syns(&listener) {
            Ok(()) => true,
            // Some kernels keep filters on TCP sockets for root; the listener does without then.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
            // There is none elsewhere.
            #[cfg(any(not(target_os = "linux"), entryway_portable))]
            Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
            Err(error) => panic!("{error}"),
        };
        let late = filtered.then(|| {
            let short = Duration::from_millis(50);
            let error = TcpStream::connect_timeout(&address, short).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            std::thread::spawn(move || TcpStream::connect(address))
        });
        let (mut accepted, _) = listener.accept().unwrap();
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(listener);
        std::io::Write::write_all(&mut accepted, b"x").unwrap();
        std::io::Read::read_exact(&mut queued, &mut [0]).unwrap();
        if let Some(late) = late {
            let error = late.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn errors_are_classed() {
        let os = io::Error::from_raw_os_error;
        assert_eq!(fault_of(&os(libc::ECONNRESET)), Some(Fault::Reset));
        assert_eq!(fault_of(&os(libc::EPIPE)), Some(Fault::Reset));
        assert_eq!(fault_of(&os(libc::ETIMEDOUT)), Some(Fault::UserTimeout));
        assert_eq!(fault_of(&os(libc::EHOSTUNREACH)), Some(Fault::Unreachable));
        assert_eq!(fault_of(&os(libc::EINVAL)), None);
        assert_eq!(fault_of(&os(libc::EMFILE)), None);
    }
}
