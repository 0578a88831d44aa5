//! When a short receive is asked whether urgent data has stopped it.
//!
//! Every time costs a call for each message (a fiftieth of a small round trip). The kernel tells of urgent data without
//! being asked: SIGURG, for a socket that names this process as its owner. So a side that has received a few messages
//! takes the signal, and stops asking once nothing can have been announced before. The signal does not say which socket
//! it is about: the supervisor counts it and has every relay look, and all sides ask again for a while.
//!
//! The signal comes with the first segment that announces urgent data, which may lie up to 65,535 bytes further on.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::sys::tcp_info;

/// How far ahead urgent data may be announced, and one more.
const REACH: u32 = 1 << 16;
/// Short receives before the signal is asked for: connections with few messages do without.
const FEW: u8 = 8;
/// The next short receive begins the count anew.
const RESTART: u32 = u32::MAX;

/// Tells all relays of one instance that some socket has urgent data.
#[derive(Debug, Default)]
pub struct UrgentNews(AtomicU32);

/// What is known of one side.
#[derive(Debug)]
pub(super) struct UrgentMark {
    /// [`UrgentNews`] at the last short receive.
    seen: u32,
    /// Bytes received since nothing unheard of can have been announced.
    quiet: u32,
    receives: u8,
    /// Its socket sends the signal.
    signals: bool,
}

// === impl UrgentNews ===

impl UrgentNews {
    /// Somebody takes SIGURG from here on, and calls [`UrgentNews::record`].
    pub fn begin(&self) {
        let _ = self.0.compare_exchange(0, 1, Relaxed, Relaxed);
    }

    /// Nobody takes it any more: every relay asks for itself, and has to look once.
    pub fn end(&self) {
        self.0.store(0, Relaxed);
    }

    /// The signal has come. Every relay has to look afterwards: one may have received up to the mark just before.
    pub fn record(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// 0: nobody takes the signal.
    fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

// === impl UrgentMark ===

impl UrgentMark {
    pub(super) fn new() -> Self {
        Self {
            seen: 0,
            quiet: RESTART,
            receives: 0,
            signals: false,
        }
    }

    /// Whether it was urgent data that stopped this receive of `bytes`, which found less than it had room for.
    pub(super) fn stopped(
        &mut self,
        socket: &impl std::os::fd::AsRawFd,
        bytes: usize,
        news: &UrgentNews,
    ) -> bool {
        let count = news.count();
        if count == self.seen && (REACH..RESTART).contains(&self.quiet) {
            return false;
        }
        let is_at_mark = tcp_info::is_at_urgent_mark(socket);
        if count == 0 {
            return is_at_mark;
        }
        if count != self.seen {
            self.seen = count;
            self.quiet = RESTART;
        }
        if !self.signals {
            self.receives = self.receives.saturating_add(1);
            self.signals = self.receives >= FEW && tcp_info::signal_urgent(socket).is_ok();
            self.quiet = RESTART;
            return is_at_mark;
        }
        // What this one has taken may hold an announcement; the next one's bytes are behind it.
        self.quiet = match self.quiet {
            _ if is_at_mark => RESTART,
            RESTART => 0,
            quiet => {
                let bytes = u32::try_from(bytes).unwrap_or(REACH);
                quiet.saturating_add(bytes).min(REACH)
            }
        };
        is_at_mark
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// One connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn asks(mark: &UrgentMark) -> bool {
        !(REACH..RESTART).contains(&mark.quiet)
    }

    #[test]
    fn without_the_signal_it_asks_every_time() {
        let (client, server) = pair();
        let (mut mark, news) = (UrgentMark::new(), UrgentNews::default());
        // Taken or not: the signal is not asked for everywhere.
        if cfg!(any(not(target_os = "linux"), entryway_portable)) {
            news.begin();
        }
        for _ in 0..200 {
            assert!(!mark.stopped(&server, 1000, &news));
        }
        assert!(asks(&mark) && !mark.signals, "nobody takes the signal");
        socket2::SockRef::from(&client)
            .send_out_of_band(b"!")
            .unwrap();
        (&client).write_all(b"x").unwrap();
        assert!(mark.stopped(&server, 1000, &news));
    }

    // Elsewhere the signal is not asked for.
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    #[test]
    fn it_asks_until_nothing_unheard_of_can_come_and_again_after_news() {
        let (client, server) = pair();
        let (mut mark, news) = (UrgentMark::new(), UrgentNews::default());
        news.begin();
        let mut receives = 0;
        while asks(&mark) {
            assert!(!mark.stopped(&server, 1000, &news));
            receives += 1;
        }
        // The few, one that may hold an announcement, and 64 KiB.
        assert_eq!(receives, u32::from(FEW) + 1 + REACH.div_ceil(1000));
        news.record();
        socket2::SockRef::from(&client)
            .send_out_of_band(b"!")
            .unwrap();
        (&client).write_all(b"x").unwrap();
        assert!(mark.stopped(&server, 1000, &news));
        assert!(asks(&mark));
        news.end();
        mark.quiet = REACH;
        assert!(
            mark.stopped(&server, 1000, &news),
            "the mark is still there"
        );
    }
}
