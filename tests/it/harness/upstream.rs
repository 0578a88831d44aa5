//! Scripted upstreams: each hands its accepted connections to a small script, and counts them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A listening socket on loopback with a script behind it; closed when dropped.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// What a script may count into.
pub type Counter = Arc<AtomicUsize>;

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    /// Runs `script` for each accepted connection; it may add the bytes it read to the counter.
    pub async fn start<F, Fut>(at: &str, script: F) -> Self
    where
        F: Fn(TcpStream, Counter) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, bytes) = (Counter::default(), Counter::default());
        let (count, read) = (Arc::clone(&accepted), Arc::clone(&bytes));
        let task = tokio::spawn(async move {
            let mut scripts = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                scripts.spawn(script(stream, Arc::clone(&read)));
            }
        });
        Self {
            address,
            accepted,
            bytes,
            task,
        }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }

    /// Bytes its scripts have read so far.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Sends back what it reads; FIN after FIN.
    pub async fn echo() -> Self {
        Self::start("127.0.0.1:0", echo).await
    }

    /// Reads everything, then replies with the number of bytes and FIN.
    pub async fn sink() -> Self {
        Self::start("127.0.0.1:0", |mut stream, read| async move {
            let total = drain(&mut stream, &read).await;
            let _ = stream.write_all(total.to_string().as_bytes()).await;
        })
        .await
    }

    /// Sends `count` pattern bytes and FIN, whatever the client does.
    pub async fn source(count: usize) -> Self {
        Self::start("127.0.0.1:0", move |mut stream, _| async move {
            let _ = stream.write_all(&pattern(0, count)).await;
            let _ = stream.shutdown().await;
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await.is_ok_and(|got| got > 0) {}
        })
        .await
    }

    /// Speaks first, then echoes.
    pub async fn speaks_first(greeting: &'static str) -> Self {
        Self::start("127.0.0.1:0", move |mut stream, read| async move {
            let _ = stream.write_all(greeting.as_bytes()).await;
            echo(stream, read).await;
        })
        .await
    }

    /// Answers each message after `delay`.
    pub async fn slow(delay: Duration) -> Self {
        Self::start("127.0.0.1:0", move |mut stream, read| async move {
            let mut message = [0; 4096];
            while let Ok(got) = stream.read(&mut message).await {
                read.fetch_add(got, Relaxed);
                if got == 0 {
                    break;
                }
                tokio::time::sleep(delay).await;
                if stream.write_all(&message[..got]).await.is_err() {
                    break;
                }
            }
        })
        .await
    }

    /// Reads what comes and never answers.
    pub async fn frozen() -> Self {
        Self::start("127.0.0.1:0", |mut stream, read| async move {
            drain(&mut stream, &read).await;
            std::future::pending().await
        })
        .await
    }

    /// Accepts and ends at once, without a byte: FIN.
    pub async fn untouched_fin(at: &str) -> Self {
        Self::start(at, |stream, _| async move { drop(stream) }).await
    }

    /// Sends `count` pattern bytes once the client has sent something, then resets.
    pub async fn reset_after(count: usize) -> Self {
        Self::start("127.0.0.1:0", move |mut stream, _| async move {
            let mut first = [0; 1];
            let _ = stream.read(&mut first).await;
            let _ = stream.write_all(&pattern(0, count)).await;
            reset(stream);
        })
        .await
    }
}

/// Echoes until FIN, then FIN.
pub async fn echo(mut stream: TcpStream, read: Counter) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(got) = stream.read(&mut buffer).await {
        read.fetch_add(got, Relaxed);
        if got == 0 || stream.write_all(&buffer[..got]).await.is_err() {
            break;
        }
    }
}

async fn drain(stream: &mut TcpStream, read: &Counter) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    while let Ok(got) = stream.read(&mut buffer).await {
        if got == 0 {
            break;
        }
        read.fetch_add(got, Relaxed);
        total += got;
    }
    total
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Bytes computed from their offset: loss, repetition and disorder show.
pub fn pattern(from: usize, count: usize) -> Vec<u8> {
    /// After this many bytes they come again.
    const PERIOD: usize = 1 << 24;
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        (0..PERIOD)
            .map(|offset| (offset ^ (offset >> 8) ^ (offset >> 16)) as u8)
            .collect()
    });
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let start = (from + bytes.len()) % PERIOD;
        let end = PERIOD.min(start + count - bytes.len());
        bytes.extend_from_slice(&table[start..end]);
    }
    bytes
}

/// An address on which nothing listens: connects are refused.
pub async fn refused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// An address whose SYNs stay unanswered: its backlog is full. Holds the sockets that fill it.
#[derive(Debug)]
pub struct Hung {
    /// Where it does not answer.
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _fill: Vec<std::net::TcpStream>,
}

/// A black hole on this machine.
pub fn hung() -> Hung {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        fill.push(stream);
    }
    Hung {
        address,
        _listener: listener,
        _fill: fill,
    }
}

/// Answers every request of one connection with these bytes; FIN after FIN.
pub async fn answering(reply: Arc<dyn Fn() -> Vec<u8> + Send + Sync>) -> Upstream {
    Upstream::start("127.0.0.1:0", move |mut stream, read| {
        let reply = Arc::clone(&reply);
        async move {
            let mut message = [0; 4096];
            while let Ok(got) = stream.read(&mut message).await {
                read.fetch_add(got, Relaxed);
                if got == 0 || stream.write_all(&reply()).await.is_err() {
                    break;
                }
            }
        }
    })
    .await
}

/// An HTTP answer of an entry point of this system.
pub fn entry_point(identity: &str) -> Vec<u8> {
    http_answer(&format!("{{:s3-auth-path \"{identity}\"}}"))
}

/// An HTTP answer with this body.
pub fn http_answer(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Answers as an entry point of this system.
pub async fn datomic(identity: &'static str) -> Upstream {
    answering(Arc::new(move || entry_point(identity))).await
}
