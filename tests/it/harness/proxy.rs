//! Proxies that hops go through, and the line to one that is far away.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// A SOCKS5 and HTTP CONNECT proxy that leads every name to one address, or as it is told for each.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections are accepted and never answered.
    pub mute: Arc<AtomicBool>,
    /// Ends it when aborted.
    pub task: JoinHandle<()>,
    told: Arc<Told>,
}

struct Told {
    to: SocketAddr,
    ways: Mutex<HashMap<String, Way>>,
    /// What the requests asked for.
    asked: Mutex<Vec<String>>,
}

/// What becomes of a request for one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It leads there.
    To(SocketAddr),
    /// The proxy cannot resolve it.
    Unknown,
    /// The request is not answered.
    Silent,
}

impl Proxy {
    /// Starts one that leads to `to`.
    pub async fn start(at: &str, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mute = Arc::new(AtomicBool::new(false));
        let told = Arc::new(Told {
            to,
            ways: Mutex::default(),
            asked: Mutex::default(),
        });
        let (is_mute, tells) = (Arc::clone(&mute), Arc::clone(&told));
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (is_mute, tells) = (Arc::clone(&is_mute), Arc::clone(&tells));
                serving.spawn(async move {
                    if is_mute.load(SeqCst) {
                        return std::future::pending().await;
                    }
                    // A client that leaves is no failure of the test.
                    let _ = serve(client, &tells).await;
                });
            }
        });
        Self {
            address,
            mute,
            task,
            told,
        }
    }

    /// What the requests asked for, so far.
    pub fn asked(&self) -> Vec<String> {
        self.told.asked.lock().unwrap().clone()
    }

    /// From now on requests for `target`, `HOST:PORT`, go this way.
    pub fn tell(&self, target: &str, way: Way) {
        self.told
            .ways
            .lock()
            .unwrap()
            .insert(target.to_owned(), way);
    }
}

impl Told {
    async fn way_of(&self, target: String) -> Way {
        let way = self.ways.lock().unwrap().get(&target).copied();
        self.asked.lock().unwrap().push(target);
        match way {
            Some(Way::Silent) => std::future::pending().await,
            Some(way) => way,
            None => Way::To(self.to),
        }
    }
}

async fn serve(mut client: TcpStream, told: &Told) -> std::io::Result<()> {
    let mut first = [0; 1];
    client.read_exact(&mut first).await?;
    let (way, yes, no): (_, &[u8], &[u8]) = if first[0] == 5 {
        let count = client.read_u8().await?;
        client.read_exact(&mut vec![0; count.into()]).await?;
        client.write_all(&[5, 0]).await?;
        let mut head = [0; 5];
        client.read_exact(&mut head).await?;
        let mut rest = vec![0; usize::from(head[4]) + 2];
        client.read_exact(&mut rest).await?;
        let port = u16::from_be_bytes([rest[rest.len() - 2], rest[rest.len() - 1]]);
        let host = String::from_utf8_lossy(&rest[..rest.len() - 2]).into_owned();
        (
            told.way_of(format!("{host}:{port}")).await,
            &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0],
        )
    } else {
        let mut head = first.to_vec();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        (
            told.way_of(target).await,
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        )
    };
    let Way::To(to) = way else {
        return client.write_all(no).await;
    };
    let mut upstream = TcpStream::connect(to).await?;
    client.write_all(yes).await?;
    copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}

/// A line to a server far away: what is sent arrives one way later, and the first bytes of a client a round trip more,
/// as behind a TCP handshake over that distance. Knows how often each connection has crossed it.
pub struct Line {
    /// Where it listens.
    pub address: SocketAddr,
    crossings: Arc<Mutex<Vec<Crossings>>>,
    task: JoinHandle<()>,
}

/// The traffic of one connection.
#[derive(Clone, Debug, Default)]
pub struct Crossings {
    /// When something was sent in the other direction than before: up, down, up, …
    pub turns: Vec<Instant>,
}

impl Line {
    /// A line to `server`.
    pub async fn to(server: SocketAddr, one_way: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let crossings = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&crossings);
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let since = Instant::now();
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Crossings::default());
                    all.len() - 1
                };
                let all = Arc::clone(&all);
                let crosses = move |up: bool| {
                    let turns = &mut all.lock().unwrap()[number].turns;
                    if turns.len().is_multiple_of(2) == up {
                        turns.push(Instant::now());
                    }
                };
                serving.spawn(async move {
                    let server = TcpStream::connect(server).await?;
                    server.set_nodelay(true)?;
                    client.set_nodelay(true)?;
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let connected = since + 2 * one_way;
                    tokio::join!(
                        carry(from_client, to_server, one_way, connected, || crosses(true)),
                        carry(from_server, to_client, one_way, since, || crosses(false)),
                    );
                    std::io::Result::Ok(())
                });
            }
        });
        Self {
            address,
            crossings,
            task,
        }
    }

    /// What has crossed it so far, connection by connection.
    pub fn crossings(&self) -> Vec<Crossings> {
        self.crossings.lock().unwrap().clone()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one direction to its end; nothing leaves before `earliest`.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    one_way: Duration,
    earliest: Instant,
    crosses: impl Fn(),
) {
    let (send, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reads = async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            crosses();
            let arrives = Instant::now().max(earliest) + one_way;
            if send.send((arrives, bytes[..read].to_vec())).is_err() {
                return;
            }
        }
        let _ = send.send((Instant::now().max(earliest) + one_way, Vec::new()));
    };
    let writes = async move {
        while let Some((arrives, bytes)) = due.recv().await {
            sleep_until(arrives).await;
            let sent = match bytes.is_empty() {
                true => to.shutdown().await,
                false => to.write_all(&bytes).await,
            };
            if sent.is_err() {
                return;
            }
        }
    };
    tokio::join!(reads, writes);
}
