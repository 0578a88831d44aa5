//! The actor: inputs in, snapshots, events and numbers out. The clock is paused; there are no sockets.

use std::time::Duration;

use super::*;
use crate::events::{Log, LogSettings};
use crate::types::{EndpointName, Zone};
use input::ProbeOutcome;
use snapshot::HealthState;

fn config(metrics: &Metrics, events: &Events) -> UpstreamArgs {
    let endpoint = |name: &str, host: &str| EndpointSpec {
        name: EndpointName::new(name),
        host: host.to_owned(),
        port: 8182,
        zone: Some(Zone::new(name)),
        role: endpoint::Role::Configured,
        hop: None,
    };
    UpstreamArgs {
        upstream: UpstreamName::new("u"),
        endpoints: vec![endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2")],
        settings: UpstreamPolicy {
            own_zone: Some(Zone::new("a")),
            ..UpstreamPolicy::default()
        },
        metrics: metrics.clone(),
        events: events.clone(),
        own_listeners: Vec::new(),
        names: NamesInUse::default(),
    }
}

fn probed(n: u8, outcome: ProbeOutcome) -> Input {
    Input::Probed {
        socket: SocketAddr::from(([10, 0, 0, n], 8182)),
        sent: clock::now(),
        outcome,
        took: Duration::from_millis(1),
    }
}

async fn until(view: &mut SnapshotReader, what: impl Fn(&Snapshot) -> bool) {
    tokio::time::timeout(Duration::from_secs(600), async {
        while !what(&view.load()) {
            view.changed().await;
        }
    })
    .await
    .expect("the snapshot comes");
}

const OK: ProbeOutcome = ProbeOutcome::Success { identity: None };

#[tokio::test(start_paused = true)]
async fn facts_become_snapshots_events_and_numbers() {
    let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
    let mut received = events.subscribe();
    let (feed, mut view, actor) = start(config(&metrics, &events));
    let actor = tokio::spawn(actor);
    assert_eq!(view.load().addresses, 2);
    feed.send(probed(1, OK));
    feed.send(probed(2, OK));
    until(&mut view, |seen| seen.healthy == 2 && seen.first_round_done).await;
    assert_eq!(
        metrics.value("endpoint_healthy", &[("endpoint", "a")]),
        Some(1.0)
    );
    assert_eq!(
        metrics.value("endpoint_active", &[("endpoint", "a")]),
        Some(1.0)
    );
    feed.send(probed(1, ProbeOutcome::Refused));
    feed.send(probed(1, ProbeOutcome::Refused));
    until(&mut view, |seen| seen.active_zone.as_deref() == Some("b")).await;
    assert_eq!(
        metrics.value("failovers_total", &[("from", "a"), ("to", "b")]),
        Some(1.0)
    );
    assert_eq!(
        metrics.value("endpoint_healthy", &[("endpoint", "a")]),
        Some(0.0)
    );
    assert_eq!(
        metrics.value(
            "endpoint_transitions_total",
            &[("endpoint", "a"), ("to", "down"), ("reason", "refused")]
        ),
        Some(1.0)
    );
    assert_eq!(metrics.value("upstream_healthy_addresses", &[]), Some(1.0));
    let mut names = Vec::new();
    while let Ok(event) = received.try_recv() {
        names.push(event.name);
    }
    assert!(
        names.contains(&"endpoint.state") && names.contains(&"upstream.failover"),
        "{names:?}"
    );
    drop(feed);
    actor.await.expect("the actor ends with its last feed");
}

/// The code `unreachable` is one of many causes: the line and the last probe say which.
#[tokio::test(start_paused = true)]
async fn a_state_line_names_the_route() {
    let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
    let mut received = events.subscribe();
    let (feed, mut view, actor) = start(config(&metrics, &events));
    let _actor = tokio::spawn(actor);
    let why = "a `blackhole` route of this machine";
    for _ in 0..2 {
        feed.send(probed(1, ProbeOutcome::Unreachable(why.into())));
    }
    let is_down = |seen: &Snapshot| {
        let mut all = seen.all();
        all.any(|(_, view)| view.state == HealthState::Down)
    };
    until(&mut view, is_down).await;
    let seen = view.load();
    let (_, down) = seen
        .all()
        .find(|(_, view)| view.state == HealthState::Down)
        .unwrap();
    let last = down.last_probe.as_ref().unwrap();
    assert_eq!(
        (last.result.as_str(), last.detail.as_deref()),
        ("unreachable", Some(why))
    );
    let mut said = Vec::new();
    while let Ok(event) = received.try_recv() {
        if event.name == "endpoint.state" {
            said.push(event.field("detail").map(ToString::to_string));
        }
    }
    assert!(
        said.iter().flatten().any(|detail| detail.contains(why)),
        "{said:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_leaves_takes_its_series_along() {
    let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
    let mut config = config(&metrics, &events);
    let settings = config.settings.clone();
    let mut endpoints = config.endpoints.clone();
    config.endpoints.truncate(2);
    let (feed, mut view, actor) = start(config);
    let _actor = tokio::spawn(actor);
    endpoints.truncate(1);
    feed.send(Input::Reconfigure {
        endpoints,
        settings,
    });
    until(&mut view, |seen| seen.endpoints.len() == 1).await;
    assert_eq!(
        metrics.value("endpoint_healthy", &[("endpoint", "b")]),
        None
    );
    assert!(
        metrics
            .value("endpoint_healthy", &[("endpoint", "a")])
            .is_some()
    );
}

/// Whoever waits finds what was ordered, however much is in the queue before it.
#[tokio::test(start_paused = true)]
async fn once_settled_every_order_is_in_the_snapshot() {
    let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
    let (feed, view, actor) = start(config(&metrics, &events));
    let _actor = tokio::spawn(actor);
    for number in 0..3 * QUEUE {
        let intent = if number % 2 == 0 {
            input::Intent::Drain
        } else {
            input::Intent::Ready
        };
        feed.send(Input::Intent {
            endpoint: EndpointName::new("a"),
            intent,
        });
    }
    feed.send(Input::Intent {
        endpoint: EndpointName::new("a"),
        intent: input::Intent::Drain,
    });
    feed.settled().await;
    assert_eq!(view.load().endpoints[0].intent, input::Intent::Drain);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_observations_only() {
    let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
    let (feed, mut view, actor) = start(config(&metrics, &events));
    for _ in 0..QUEUE + 5 {
        feed.send(probed(1, OK));
    }
    let dropped = metrics.value("upstream_inputs_dropped_total", &[("upstream", "u")]);
    assert_eq!(dropped, Some(5.0));
    feed.send(Input::Intent {
        endpoint: EndpointName::new("a"),
        intent: input::Intent::Drain,
    });
    let _actor = tokio::spawn(actor);
    until(&mut view, |seen| {
        seen.endpoints[0].intent == input::Intent::Drain
    })
    .await;
    assert_eq!(view.load().endpoints[0].addresses[0].state, HealthState::Up);
}

/// While nothing is in doubt the actor sleeps; an input that ends the sleep must not look like a stall of our own, which
/// would void the probes that follow.
#[tokio::test(start_paused = true)]
async fn an_input_that_ends_the_sleep_is_no_stall() {
    let (log, lines) = Log::memory(&LogSettings::default()).unwrap();
    log.set_level(tracing::Level::DEBUG);
    let (metrics, events) = (Metrics::default(), Events::new(log.clone()));
    let (feed, mut view, actor) = start(config(&metrics, &events));
    let actor = tokio::spawn(actor);
    feed.send(probed(1, OK));
    feed.send(probed(2, OK));
    until(&mut view, |seen| seen.healthy == 2 && seen.first_round_done).await;
    for phase in [50, 250, 450, 650, 850] {
        tokio::time::sleep(Duration::from_millis(1000 + phase)).await;
        feed.send(Input::Suspect {
            endpoint: EndpointName::new("a"),
            socket: SocketAddr::from(([10, 0, 0, 1], 8182)),
            why: input::Suspicion::LostHedge,
            started: clock::now(),
        });
        until(&mut view, |seen| {
            let address = seen.address(SocketAddr::from(([10, 0, 0, 1], 8182)));
            address.is_some_and(|view| view.state == HealthState::Suspect)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Both, so that no probe is overdue in the next round: that would keep the actor awake.
        feed.send(probed(1, OK));
        feed.send(probed(2, OK));
        until(&mut view, |seen| seen.healthy == 2).await;
    }
    actor.abort();
    assert!(log.flush(Duration::from_secs(10)));
    let text = lines.text();
    assert!(text.contains("endpoint.state"), "{text}");
    assert!(!text.contains("\"stall\""), "{text}");
}

/// Where only the value that the settings expect is another one there are no two systems.
#[tokio::test(start_paused = true)]
async fn another_system_than_the_expected_one_is_no_conflict_of_two() {
    let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
    let mut received = events.subscribe();
    let mut config = config(&metrics, &events);
    config.settings.health.expect_s3_auth_path = settings::ExpectIdentity::Value("b/one".into());
    let (feed, view, actor) = start(config);
    let _actor = tokio::spawn(actor);
    for n in [1, 2] {
        let identity = Some(identity::SystemId::new("b/two"));
        feed.send(probed(n, ProbeOutcome::Success { identity }));
    }
    let said = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match received.recv().await {
                Ok(event) if event.name == "identity.mismatch" => return event,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let said = said.await.expect("it is said");
    let values = ["identity", "identity.other"].map(|key| said.field(key).map(ToString::to_string));
    assert_eq!(values, [Some("b/one".to_owned()), Some("b/two".to_owned())]);
    let text = said.message.to_string();
    assert!(
        text.contains("expect_s3_auth_path") && !text.contains("two systems"),
        "{text}"
    );
    assert!(view.load().order(clock::now(), 0.0).is_empty());
}
