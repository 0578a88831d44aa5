//! How client commands find the running instances: each registers itself for its user in its network namespace.
//!
//! A registration is a listening Unix socket with an abstract name, `entryway/UID/RANDOM`. Abstract names belong to the
//! network namespace and vanish with the process, so that there is nothing to clean up, nothing to write to disk, and an
//! instance in another container of the host is never mistaken for ours. Whoever connects is sent one line of JSON
//! ([`Registered`]). Anybody may choose such a name, so a client trusts only a socket that its own user listens on.
//!
//! Only Linux has abstract names; elsewhere no instance is registered, and client commands use the default address.

use std::io;
#[cfg(all(target_os = "linux", not(entryway_portable)))]
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a client learns about an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub pid: u32,
    /// Where admin HTTP listens; absent where it is off.
    pub admin: Option<String>,
    /// The path of the control socket; absent where there is none.
    pub control: Option<String>,
    /// Where clients connect.
    pub listeners: Vec<String>,
}

/// An instance has this long to tell about itself.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const PATIENCE: Duration = Duration::from_secs(1);

/// A line is never longer.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const LINE_MAX: u64 = 64 * 1024;

#[cfg(all(target_os = "linux", not(entryway_portable)))]
mod linux {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::time::timeout;

    use super::{Duration, LINE_MAX, PATIENCE, Registered, io};
    use crate::admin::control::own_uid;

    fn prefix() -> String {
        format!("entryway/{}/", own_uid())
    }

    /// Registers until dropped; the future answers clients.
    pub async fn register(registered: Registered) -> io::Result<()> {
        let name = format!("{}{:016x}", prefix(), fastrand::u64(..));
        let address = net::SocketAddr::from_abstract_name(name)?;
        let listener = net::UnixListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let line = serde_json::to_vec(&registered)?;
        loop {
            match listener.accept().await {
                // A line fits the socket's buffer; a client that has gone is of no interest.
                Ok((mut client, _)) => drop(timeout(PATIENCE, client.write_all(&line)).await),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The instances of our user in our network namespace, by process id.
    pub async fn discover() -> Vec<Registered> {
        let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let mut found = Vec::new();
        for name in names_in(&table, &prefix()) {
            if let Ok(Some(one)) = timeout(PATIENCE, ask(name)).await {
                found.push(one);
            }
        }
        found.sort_by_key(|one: &Registered| one.pid);
        found
    }

    /// The abstract names of listening sockets in `/proc/net/unix` that begin like this.
    pub(super) fn names_in<'t>(table: &'t str, prefix: &str) -> Vec<&'t str> {
        /// `__SO_ACCEPTCON`: the socket listens.
        const LISTENS: u32 = 0x1_0000;
        let name_of = |line: &'t str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
            let name = fields.get(7)?.strip_prefix('@')?;
            (flags & LISTENS != 0 && name.starts_with(prefix)).then_some(name)
        };
        table.lines().filter_map(name_of).collect()
    }

    async fn ask(name: &str) -> Option<Registered> {
        let stream = UnixStream::connect(format!("\0{name}")).await.ok()?;
        if stream.peer_cred().ok()?.uid() != own_uid() {
            return None;
        }
        let mut line = Vec::new();
        stream.take(LINE_MAX).read_to_end(&mut line).await.ok()?;
        serde_json::from_slice(&line).ok()
    }
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub use linux::{discover, register};

/// Nothing is registered here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub async fn register(_registered: Registered) -> io::Result<()> {
    std::future::pending().await
}

/// Nothing is registered here.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub async fn discover() -> Vec<Registered> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux", not(entryway_portable)))]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_of_the_prefix_count() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000: 00000002 00000000 00010000 0001 01 100 @entryway/7/00aa
0000: 00000003 00000000 00000000 0001 03 101 @entryway/7/00aa
0000: 00000002 00000000 00010000 0001 01 102 @entryway/77/00bb
0000: 00000002 00000000 00010000 0001 01 103 /run/entryway/7/x
0000: 00000002 00000000 00010000 0001 01 104
";
        assert_eq!(linux::names_in(table, "entryway/7/"), ["entryway/7/00aa"]);
    }

    #[tokio::test]
    async fn an_instance_is_found_while_it_is_registered() {
        let own = Registered {
            pid: u32::MAX - fastrand::u32(..1000),
            admin: Some("127.0.0.1:1".into()),
            control: None,
            listeners: vec!["127.0.0.1:2".into()],
        };
        let task = tokio::spawn(register(own.clone()));
        let found = async || discover().await.contains(&own);
        let start = tokio::time::Instant::now();
        while !found().await {
            assert!(start.elapsed() < Duration::from_secs(20), "not found");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        task.abort();
        let _ = task.await;
        assert!(!found().await);
    }
}
