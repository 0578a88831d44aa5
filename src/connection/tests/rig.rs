//! For tests: a listener before endpoints on this machine, with an upstream that does not probe, and upstreams of
//! every sort.

use std::net::TcpListener as StdListener;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::clock;
use crate::connection::*;
use crate::dial::{DialSettings, Dialer, PreconnectSettings, Preconnected, SpareLimit};
use crate::events::{Event, Events, Log};
use crate::metrics::Metrics;
use crate::relay::{Limits, TcpSettings};
use crate::sys::congestion::LoopbackCongestion;
use crate::types::{EndpointName, ListenerName, UpstreamName};
use crate::upstream::endpoint::{EndpointSpec, Role};
use crate::upstream::input::{Addresses, AnswerSource, DnsAnswer, Input};
use crate::upstream::settings::{ProbeKind, UpstreamPolicy};
use crate::upstream::{self, UpstreamArgs};

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A listener before endpoints on this machine, with an upstream that does not probe.
pub(crate) struct Rig {
    pub(crate) context: Arc<ListenerContext>,
    pub(crate) metrics: Metrics,
    pub(crate) events: broadcast::Receiver<Arc<Event>>,
    pub(crate) front: SocketAddr,
    pub(crate) listener: tokio::task::JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn new(endpoints: &[SocketAddr], policy: Policy) -> Self {
        let metrics = Metrics::default();
        let events = Events::new(Log::default());
        let received = events.subscribe();
        let upstream = UpstreamName::new("default");
        let mut settings = UpstreamPolicy::default();
        settings.health.kind = ProbeKind::Off;
        let spec = |socket: &SocketAddr| EndpointSpec {
            name: EndpointName::new(format!("e{}", socket.port())),
            host: socket.ip().to_string(),
            port: socket.port(),
            zone: None,
            role: Role::Configured,
            hop: None,
        };
        let (feed, view, actor) = upstream::start(UpstreamArgs {
            upstream: upstream.clone(),
            endpoints: endpoints.iter().map(spec).collect(),
            settings,
            metrics: metrics.clone(),
            events: events.clone(),
            own_listeners: Vec::new(),
            names: Default::default(),
        });
        spawn_local(actor);
        for socket in endpoints {
            feed.send(Input::Answer(DnsAnswer {
                name: socket.ip().to_string(),
                at: clock::now(),
                result: Ok(Addresses {
                    ips: vec![socket.ip()],
                    ttl: Duration::from_secs(60),
                    source: AnswerSource::Literal,
                    refused: Vec::new(),
                }),
            }));
        }
        eventually(|| view.load().addresses == endpoints.len()).await;
        let dial = DialSettings {
            connect_timeout: Duration::from_millis(300),
            hedge_after: crate::dial::HedgeAfter::AtMost(Duration::from_millis(50)),
            tcp: TcpSettings::default().options(),
            loopback_congestion: LoopbackCongestion::default(),
        };
        let warm = Preconnected::new(
            PreconnectSettings::default(),
            metrics.clone(),
            SpareLimit::default(),
        );
        let context = ListenerContext::new(ContextParts {
            listener: ListenerName::new("datomic"),
            upstream,
            view,
            feed,
            registry: Registry::default(),
            events,
            dialer: Dialer::new(dial, Vec::new(), warm),
            limits: Limits::default(),
            relay: Arc::default(),
            policy,
            metrics: metrics.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap();
        let listener = spawn_local(accept(listener, Arc::clone(&context)));
        Self {
            context,
            metrics,
            events: received,
            front,
            listener,
        }
    }

    /// A rig before one upstream that says everything back; its address.
    pub(crate) async fn echoing() -> (Self, SocketAddr) {
        let (listener, to) = listen().await;
        spawn_local(echo(listener));
        let policy = policy(WhenAllDown::Hold, 1000);
        (Self::new(&[to], policy).await, to)
    }

    pub(crate) async fn client(&self) -> TcpStream {
        TcpStream::connect(self.front).await.unwrap()
    }

    /// The next record of a closed connection.
    pub(crate) async fn closed(&mut self) -> Arc<Event> {
        loop {
            let event = timeout(SOON, self.events.recv()).await.unwrap().unwrap();
            if event.name == "conn.close" {
                return event;
            }
        }
    }

    /// Everything that was raised is down again.
    pub(crate) fn assert_settled(&self) {
        assert!(self.context.registry.is_empty());
        assert_eq!((self.context.admitted(), self.context.parked()), (0, 0));
        assert_eq!(self.metrics.sum("connections"), 0.0);
        assert_eq!(self.metrics.sum("connections_parked"), 0.0);
        let accepted = self.metrics.sum("connections_accepted_total");
        assert_eq!(self.metrics.sum("connections_closed_total"), accepted);
    }
}

pub(crate) async fn accept(listener: TcpListener, context: Arc<ListenerContext>) {
    let mut serving = tokio::task::JoinSet::new();
    while let Ok((stream, client)) = listener.accept().await {
        let stream = stream.into_std().unwrap();
        let guard = admit(client, &context, usize::MAX).unwrap();
        serving.spawn_local(serve(stream, guard));
    }
}

pub(crate) async fn eventually(mut is: impl FnMut() -> bool) {
    // A condition, looked at often; the pause only spares the CPU.
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, wait).await.expect("it never came true");
}

pub(crate) fn policy(when_all_down: WhenAllDown, hold: u64) -> Policy {
    Policy {
        when_all_down,
        hold_timeout: Duration::from_millis(hold),
        hold_max: 1024,
        max_connections: None,
    }
}

/// An address that refuses until it listens.
pub(crate) struct Later(socket2::Socket);

impl Later {
    pub(crate) fn new() -> (Self, SocketAddr) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (Self(socket), address)
    }

    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(1024).unwrap();
        self.0.set_nonblocking(true).unwrap();
        TcpListener::from_std(StdListener::from(self.0)).unwrap()
    }
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        spawn_local(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

/// Accepts and ends at once, in order or by a reset.
pub(crate) async fn rude(listener: TcpListener, reset: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        if reset {
            crate::sys::socket::abort(stream);
        }
    }
}

pub(crate) async fn says(client: &mut TcpStream, text: &[u8]) {
    client.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    timeout(SOON, client.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(back, text);
}

/// What the client reads until the end.
pub(crate) async fn end_of(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    timeout(SOON, client.read_to_end(&mut all)).await.unwrap()?;
    Ok(all)
}
