use super::*;
use crate::events::{LogSettings, Reason};
use crate::metrics::Metrics;
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::socket::TcpOptions;
use crate::types::{EndpointName, UpstreamName};
use crate::upstream::endpoint::{Address, Endpoint, EndpointSpec, Role};
use std::net::{TcpListener, TcpStream as StdStream};
use tokio::io::AsyncReadExt;

/// A listener whose queue is full: further SYNs stay unanswered, as from a black hole.
struct Hole {
    listener: TcpListener,
    full: Vec<StdStream>,
}

impl Hole {
    fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let to = listener.local_addr().unwrap();
        let mut full = Vec::new();
        // Until a connect is not answered; how many the kernel queues is its own business.
        while let Ok(stream) = StdStream::connect_timeout(&to, Duration::from_millis(150)) {
            full.push(stream);
        }
        Self { listener, full }
    }

    fn candidate(&self) -> Candidate {
        candidate(self.listener.local_addr().unwrap())
    }
}

fn candidate(socket: SocketAddr) -> Candidate {
    Candidate {
        endpoint: Arc::new(Endpoint {
            upstream: UpstreamName::new("u"),
            spec: EndpointSpec {
                name: EndpointName::new(socket.to_string()),
                host: socket.ip().to_string(),
                port: socket.port(),
                zone: None,
                role: Role::Configured,
                hop: None,
            },
        }),
        address: Arc::new(Address::new(socket)),
    }
}

fn listen() -> (tokio::net::TcpListener, Candidate) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let to = listener.local_addr().unwrap();
    (
        tokio::net::TcpListener::from_std(listener).unwrap(),
        candidate(to),
    )
}

/// An address that refuses: bound and not listening, so nobody else can take the port meanwhile.
fn refusing() -> (socket2::Socket, Candidate) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let to = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, candidate(to))
}

fn settings() -> DialSettings {
    DialSettings {
        connect_timeout: Duration::from_millis(1500),
        hedge_after: HedgeAfter::AtMost(Duration::from_millis(250)),
        tcp: TcpOptions {
            keepalive: Some(Duration::from_secs(15)),
            keepalive_interval: Duration::from_secs(5),
            keepalive_probes: 3,
            user_timeout: Some(Duration::from_secs(15)),
        },
        loopback_congestion: LoopbackCongestion::default(),
    }
}

fn dialer(connect_timeout: u64, hedge_after: u64) -> Dialer {
    warm_dialer(connect_timeout, hedge_after, 0).0
}

fn warm_dialer(connect_timeout: u64, hedge_after: u64, spares: usize) -> (Dialer, Metrics) {
    let metrics = Metrics::default();
    let settings = DialSettings {
        connect_timeout: Duration::from_millis(connect_timeout),
        hedge_after: HedgeAfter::AtMost(Duration::from_millis(hedge_after)),
        ..settings()
    };
    let warm = PreconnectSettings {
        spares,
        ..PreconnectSettings::default()
    };
    let warm = Preconnected::new(warm, metrics.clone(), SpareLimit::default());
    (Dialer::new(settings, Vec::new(), warm), metrics)
}

/// Dials; also what was reported, as (place in `candidates`, outcome).
async fn dial(
    dialer: &Dialer,
    candidates: &[Candidate],
) -> (Result<Dialed, Error>, Vec<(usize, ConnectOutcome)>) {
    let mut seen = Vec::new();
    let dialed = dialer
        .dial(candidates, ClientData::None, &mut |attempt: Attempt| {
            let place = candidates
                .iter()
                .position(|c| *c == attempt.candidate)
                .unwrap();
            seen.push((place, attempt.outcome));
        })
        .await;
    (dialed, seen)
}

#[tokio::test]
async fn a_refusal_moves_on_at_once() {
    let ((_held, refused), (_listener, good)) = (refusing(), listen());
    let (dialed, seen) = dial(&dialer(1500, 250), &[refused, good.clone()]).await;
    let dialed = dialed.unwrap();
    assert_eq!(dialed.candidate, good);
    assert_eq!((dialed.attempts, dialed.hedged), (2, false));
    assert!(dialed.took < Duration::from_millis(100));
    assert_eq!(
        seen,
        [(0, ConnectOutcome::Refused), (1, ConnectOutcome::Ok)]
    );
    assert_eq!(
        dialed.stream.as_tcp().unwrap().peer_addr().unwrap(),
        good.address.socket
    );
    assert!(dialed.stream.as_tcp().unwrap().nodelay().unwrap());
}

/// A connection is worth more than an option: it is made without it, and said once.
#[tokio::test]
async fn an_option_that_the_kernel_refuses_ends_no_attempt() {
    let (log, lines) = Log::memory(&LogSettings::default()).unwrap();
    let refused = DialSettings {
        tcp: TcpOptions {
            // The kernel allows 127.
            keepalive_probes: 200,
            ..settings().tcp
        },
        ..settings()
    };
    let spares = Preconnected::new(
        PreconnectSettings::default(),
        Metrics::default(),
        SpareLimit::default(),
    );
    let events = Events::new(log.clone());
    let dialer = Dialer::through(
        refused,
        Vec::new(),
        spares,
        Hops::default(),
        events,
        Interference::default(),
    );
    let (_listener, good) = listen();
    for _ in 0..3 {
        let (dialed, seen) = dial(&dialer, std::slice::from_ref(&good)).await;
        assert_eq!(dialed.unwrap().candidate, good);
        assert_eq!(seen, [(0, ConnectOutcome::Ok)]);
    }
    assert!(log.flush(Duration::from_secs(10)));
    let text = lines.text();
    assert_eq!(text.matches("\"event\":\"resource\"").count(), 1, "{text}");
    assert!(text.contains("refuses an option of upstream.tcp"), "{text}");
}

#[tokio::test]
async fn all_refuse() {
    let ((_a, first), (_b, second)) = (refusing(), refusing());
    let (dialed, seen) = dial(&dialer(1500, 250), &[first, second]).await;
    let error = dialed.unwrap_err();
    assert_eq!(error.reason(), Reason::ConnectRefused);
    assert!(error.to_string().ends_with("): refused"), "{error}");
    assert_eq!(
        seen,
        [(0, ConnectOutcome::Refused), (1, ConnectOutcome::Refused)]
    );
    let (nothing, _) = dial(&dialer(1500, 250), &[]).await;
    assert_eq!(nothing.unwrap_err().reason(), Reason::NoEndpoint);
}

/// 300 ms away every connect takes 300 ms: none of them is late.
#[test]
fn on_a_long_path_the_stagger_is_three_round_trips() {
    let staggers = |hedge_after, round_trip: u64| {
        let settings = DialSettings {
            hedge_after,
            ..settings()
        };
        let warm = Preconnected::new(
            PreconnectSettings::default(),
            Metrics::default(),
            SpareLimit::default(),
        );
        let to = candidate("10.0.0.1:1".parse().unwrap());
        to.address
            .connects
            .record(Duration::from_millis(round_trip));
        Dialer::new(settings, Vec::new(), warm)
            .shared
            .connector
            .stagger(&to)
            .map(|stagger| stagger.as_millis())
    };
    let at_most = |ms| HedgeAfter::AtMost(Duration::from_millis(ms));
    assert_eq!(staggers(HedgeAfter::Auto, 300), Some(900));
    assert_eq!(staggers(HedgeAfter::Auto, 5), Some(15));
    assert_eq!(staggers(at_most(250), 300), Some(250));
    assert_eq!(staggers(at_most(0), 300), None);
}

#[tokio::test]
async fn a_black_hole_costs_the_stagger_only() {
    let (hole, (_listener, good)) = (Hole::new(), listen());
    // An address that used to answer within a millisecond is given 10 ms, not 250.
    let silent = hole.candidate();
    silent.address.connects.record(Duration::from_millis(1));
    let (dialed, seen) = dial(&dialer(1500, 250), &[silent, good]).await;
    let dialed = dialed.unwrap();
    assert!(dialed.hedged);
    assert!(
        dialed.took >= Duration::from_millis(10),
        "{:?}",
        dialed.took
    );
    assert!(
        dialed.took < Duration::from_millis(200),
        "{:?}",
        dialed.took
    );
    assert_eq!(
        seen,
        [
            (0, ConnectOutcome::LostRace { later: true }),
            (1, ConnectOutcome::Ok)
        ]
    );
}

#[tokio::test]
async fn without_hedging_the_timeout_decides() {
    let (hole, (_listener, good)) = (Hole::new(), listen());
    let (dialed, seen) = dial(&dialer(120, 0), &[hole.candidate(), good]).await;
    let dialed = dialed.unwrap();
    assert!(!dialed.hedged && dialed.took >= Duration::from_millis(120));
    assert_eq!(
        seen,
        [(0, ConnectOutcome::Timeout), (1, ConnectOutcome::Ok)]
    );
    let (alone, _) = dial(&dialer(50, 250), &[hole.candidate()]).await;
    assert_eq!(alone.unwrap_err().reason(), Reason::ConnectTimeout);
}

#[tokio::test]
async fn a_loser_is_closed_without_a_byte() {
    // The loser's handshake finishes once its queue has room; by then it must be gone.
    let (hole, (_listener, good)) = (Hole::new(), listen());
    let (dialed, _) = dial(&dialer(1500, 20), &[hole.candidate(), good]).await;
    let _winner = dialed.unwrap();
    hole.listener.set_nonblocking(true).unwrap();
    let queue = tokio::net::TcpListener::from_std(hole.listener.try_clone().unwrap()).unwrap();
    let held = hole.full.len();
    // All that is in the queue is ours from filling it up: nothing else ever comes.
    for _ in 0..held {
        queue.accept().await.unwrap();
    }
    let more = tokio::time::timeout(Duration::from_millis(1300), queue.accept()).await;
    if let Ok(Ok((mut late, _))) = more {
        assert!(matches!(late.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn our_own_listener_is_never_dialled() {
    let (_listener, own) = listen();
    let to = own.address.socket;
    let warm = Preconnected::new(
        PreconnectSettings::default(),
        Metrics::default(),
        SpareLimit::default(),
    );
    let any = SocketAddr::from(([0, 0, 0, 0], to.port()));
    for listening in [to, any] {
        let dialer = Dialer::new(settings(), vec![listening], warm.clone());
        let (dialed, seen) = dial(&dialer, std::slice::from_ref(&own)).await;
        assert_eq!(dialed.unwrap_err().reason(), Reason::Resource);
        assert!(matches!(&seen[..], [(0, ConnectOutcome::Local(_))]));
    }
}

#[tokio::test]
async fn never_connects_to_itself() {
    // 2000 connects to a port nobody listens on, inside the range of local ports.
    let to = listen().1.address;
    let dialer = dialer(1500, 250);
    for _ in 0..2000 {
        let outcome = dialer
            .connect(&to, Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(outcome, ConnectOutcome::Refused);
    }
}

#[tokio::test]
async fn ipv6_when_the_machine_has_it() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return;
    };
    let to = candidate(listener.local_addr().unwrap());
    let (dialed, _) = dial(&dialer(1500, 250), &[to]).await;
    assert!(dialed.is_ok());
}

#[tokio::test]
async fn a_spare_is_used_and_a_dead_one_is_not() {
    let (listener, good) = listen();
    let (dialer, metrics) = warm_dialer(1500, 250, 1);
    let preferred = [good.clone()];
    dialer.maintain_spares(&preferred).await;
    let (_server_end, _) = listener.accept().await.unwrap();
    let dialed = dial(&dialer, &preferred).await.0.unwrap();
    assert!(dialed.warm && dialed.attempts == 0);
    assert!(
        !dial(&dialer, &preferred).await.0.unwrap().warm,
        "there was one only"
    );
    let _dialled = listener.accept().await.unwrap();

    dialer.maintain_spares(&preferred).await;
    let (server_end, _) = listener.accept().await.unwrap();
    drop(server_end);
    assert!(!dial(&dialer, &preferred).await.0.unwrap().warm);
    let count = |result| metrics.value("warm_total", &[("result", result)]);
    assert_eq!((count("used"), count("failed")), (Some(1.0), Some(1.0)));

    dialer.maintain_spares(&preferred).await;
    assert_eq!(metrics.value("warm_spares", &[]), Some(1.0));
    dialer.maintain_spares(&[]).await;
    assert_eq!(
        (dialer.preconnected().count(), metrics.sum("warm_spares")),
        (0, 0.0)
    );
    assert_eq!(count("expired"), Some(1.0));
}

/// A connect to this machine costs no time, so that a spare gains nothing and costs its own upkeep.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn spares_to_this_machine_are_not_connected_as_fast_as_they_are_taken() {
    let (_listener, good) = listen();
    let (dialer, _metrics) = warm_dialer(1500, 250, 4);
    let are_wanted = async || {
        tokio::select! {
            biased;
            () = dialer.preconnected().taken() => true,
            () = std::future::ready(()) => false,
        }
    };
    // Of those that are gone nobody knows where they led.
    dialer.preconnected().forget();
    assert!(are_wanted().await);

    let preferred = [good];
    // A busy kernel may end a handshake later than the call that began it, and then it looks as if it took time.
    for _ in 0..20 {
        dialer.maintain_spares(&preferred).await;
        for _ in 0..4 {
            assert!(dial(&dialer, &preferred).await.0.unwrap().warm);
        }
        if !are_wanted().await {
            return;
        }
    }
    panic!("always wanted");
}

/// Seen in the kernel's table of sockets, while none of them is answered.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
#[tokio::test]
async fn spares_are_connected_all_at_once() {
    let hole = Hole::new();
    let (dialer, _meters) = warm_dialer(1500, 250, 3);
    let preferred = [hole.candidate()];
    let port = format!(":{:04X}", preferred[0].address.socket.port());
    let is_asking = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // SYN_SENT.
        fields[2].ends_with(&port) && fields[3] == "02"
    };
    let all_ask = async {
        loop {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            if table.lines().filter(is_asking).count() == 3 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = dialer.maintain_spares(&preferred) => panic!("they were tried one after the other"),
        () = all_ask => {}
    }
}

/// The end of the handshake goes with the first bytes when there are some, and at once when there are none.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
#[tokio::test]
async fn an_upstream_sees_a_connection_that_brings_bytes_with_its_bytes() {
    let dialer = dialer(1500, 250);
    for opening in [ClientData::None, ClientData::Ready] {
        let (listener, good) = listen();
        let listener = listener.into_std().unwrap();
        let dialed = dialer.dial(&[good], opening, &mut |_| {}).await.unwrap();
        let mut first = [0; 2];
        let accepted = listener.accept();
        assert_eq!(accepted.is_ok(), opening == ClientData::None);
        crate::sys::socket::send(dialed.stream.as_tcp().unwrap(), b"hi").unwrap();
        let (mut upstream, _) = accepted.or_else(|_| listener.accept()).unwrap();
        std::io::Read::read_exact(&mut upstream, &mut first).unwrap();
        assert_eq!(first, *b"hi");
    }

    // Nothing comes after all: the kernel ends the handshake by itself.
    let (listener, good) = listen();
    let _silent = dialer.dial(&[good], ClientData::Ready, &mut |_| {}).await;
    tokio::time::timeout(Duration::from_secs(3), listener.accept())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_address_that_has_just_answered_its_probe_is_next() {
    let (hole, other, (_listener, good)) = (Hole::new(), Hole::new(), listen());
    let dialer = dialer(5000, 100);
    let candidates = [hole.candidate(), other.candidate(), good.clone()];
    let dialing = dial(&dialer, &candidates);
    let answers = async {
        // A millisecond later than the race began, which is what its clock can tell apart.
        tokio::time::sleep(Duration::from_millis(20)).await;
        good.address.probe_succeeded();
    };
    let ((dialed, _seen), ()) = tokio::join!(dialing, answers);
    let dialed = dialed.unwrap();
    assert_eq!(dialed.candidate, good);
    assert_eq!(dialed.attempts, 2, "the other one was not tried");
}

/// An upstream that accepts and ends at once is connected to less and less often, not as fast as it can accept.
#[tokio::test]
async fn spares_that_nobody_can_use_are_connected_ever_more_slowly() {
    let (listener, good) = listen();
    let (dialer, _metrics) = warm_dialer(1500, 250, 1);
    let preferred = [good];
    let began = tokio::time::Instant::now();
    let mut accepted = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        dialer.maintain_spares(&preferred).await;
        let ended = tokio::time::timeout(Duration::from_millis(5), listener.accept());
        accepted += usize::from(ended.await.is_ok());
    }
    assert!((1..=8).contains(&accepted), "{accepted} in 1.5 s");
}
