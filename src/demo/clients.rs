//! The clients of the demo: half keep their connections, half open one per request; 200 requests a second in all.
//!
//! Like the Datomic client they repeat a read that failed, here at once and then once more after a pause: a GET that was in
//! flight on a connection of a zone that dies is lost, and no proxy can know whether it was carried out. A process that is
//! killed may still take the next one while the kernel closes its sockets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

const CLIENTS: u64 = 8;
const EVERY: Duration = Duration::from_millis(40);

#[derive(Clone, Debug, Default)]
pub(super) struct ClientStats {
    /// How long answered requests took, in microseconds.
    micros: Vec<u64>,
    /// Requests without a right answer, even to their repetitions.
    pub(super) failed: u64,
    /// Requests whose repetition was answered.
    pub(super) repeated: u64,
}

/// Running clients.
#[derive(Debug)]
pub(super) struct Clients {
    all: Arc<Mutex<[ClientStats; 2]>>,
    tasks: JoinSet<()>,
}

/// Index of the whole run and of the present phase.
const WHOLE: usize = 0;
const PHASE: usize = 1;

// === impl Clients ===

impl Clients {
    /// `give_up`: the limit of one request, repetition included.
    pub(super) fn start(address: SocketAddr, give_up: Duration) -> Self {
        let all = Arc::<Mutex<[ClientStats; 2]>>::default();
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            tasks.spawn(client(address, number, give_up, Arc::clone(&all)));
        }
        Self { all, tasks }
    }

    pub(super) fn begin_phase(&self) {
        self.end_phase();
    }

    /// What was seen in the phase that ends here; another begins.
    pub(super) fn end_phase(&self) -> ClientStats {
        std::mem::take(&mut lock(&self.all)[PHASE])
    }

    pub(super) fn current(&self) -> ClientStats {
        lock(&self.all)[PHASE].clone()
    }

    /// Ends the clients; what they saw in the whole run.
    pub(super) async fn stop(&mut self) -> ClientStats {
        self.tasks.shutdown().await;
        lock(&self.all)[WHOLE].clone()
    }
}

fn lock(all: &Mutex<[ClientStats; 2]>) -> std::sync::MutexGuard<'_, [ClientStats; 2]> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn client(
    address: SocketAddr,
    number: u64,
    give_up: Duration,
    all: Arc<Mutex<[ClientStats; 2]>>,
) {
    let keeps = number.is_multiple_of(2);
    let mut kept: Option<SendRequest<Empty<Bytes>>> = None;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        let mut repeated = false;
        let answered = timeout(give_up, async {
            if request(address, &mut kept).await {
                return true;
            }
            repeated = true;
            kept = None;
            if request(address, &mut kept).await {
                return true;
            }
            kept = None;
            sleep(EVERY).await;
            request(address, &mut kept).await
        });
        let answered = answered.await.unwrap_or(false);
        if !keeps || !answered {
            kept = None;
        }
        let micros = began.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        for seen in lock(&all).iter_mut() {
            match answered {
                true => {
                    seen.micros.push(micros);
                    seen.repeated += u64::from(repeated);
                }
                false => seen.failed += 1,
            }
        }
    }
}

/// One request, on the kept connection where that is still open. A connection that was closed while it was idle is
/// replaced, as every pool does; that is no repetition, because nothing was sent.
async fn request(address: SocketAddr, kept: &mut Option<SendRequest<Empty<Bytes>>>) -> bool {
    if let Some(sender) = kept
        && sender.ready().await.is_ok()
    {
        return ask(address, sender).await;
    }
    let Ok(stream) = TcpStream::connect(address).await else {
        return false;
    };
    let Ok((mut sender, connection)) = handshake(TokioIo::new(stream)).await else {
        return false;
    };
    tokio::spawn(connection);
    let answered = ask(address, &mut sender).await;
    *kept = Some(sender);
    answered
}

async fn ask(address: SocketAddr, sender: &mut SendRequest<Empty<Bytes>>) -> bool {
    let request = Request::get("/")
        .header(header::HOST, address.to_string())
        .body(Empty::new());
    let Ok(request) = request else { return false };
    let Ok(response) = sender.send_request(request).await else {
        return false;
    };
    let fine = response.status().is_success();
    let body = response.into_body().collect().await;
    fine && body.is_ok_and(|body| body.to_bytes().starts_with(b"{:s3-auth-path"))
}

// === impl ClientStats ===

impl ClientStats {
    pub(super) fn answered(&self) -> u64 {
        self.micros.len() as u64
    }

    pub(super) fn median(&self) -> Duration {
        self.at(0.5)
    }

    pub(super) fn max(&self) -> Duration {
        self.at(1.0)
    }

    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        Duration::from_micros(sorted.get(index).copied().unwrap_or(0))
    }

    pub(super) fn line(&self) -> String {
        let millis = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        format!(
            "{} requests, {} failed, {} repeated, median {} ms, p99 {} ms, worst {} ms",
            self.answered(),
            self.failed,
            self.repeated,
            millis(self.median()),
            millis(self.at(0.99)),
            millis(self.max())
        )
    }
}
