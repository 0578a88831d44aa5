use super::*;
use crate::events::{Log, LogSettings};
use crate::types::Zone;
use crate::upstream::endpoint::{EndpointSpec, Role};
use crate::upstream::health::Transition;
use crate::upstream::input::{Addresses, AnswerSource, DnsAnswer, Input};
use crate::upstream::publish;
use crate::upstream::settings::UpstreamPolicy;
use crate::upstream::state::UpstreamState;

fn at(secs: u64) -> Moment {
    Moment::at(Duration::from_secs(secs))
}

fn zonal(name: &str) -> EndpointSpec {
    EndpointSpec {
        name: EndpointName::new(name),
        host: format!("{name}.test"),
        port: 8182,
        zone: Some(Zone::new(name)),
        role: Role::Zonal,
        hop: None,
    }
}

/// A derived zone is shown once its name has answered.
fn answer(state: &mut UpstreamState, name: &str, last: u8) {
    let answer = DnsAnswer {
        name: format!("{name}.test"),
        at: at(1),
        result: Ok(Addresses {
            ips: vec![[10, 0, 0, last].into()],
            ttl: Duration::from_secs(5),
            source: AnswerSource::Dns,
            refused: Vec::new(),
        }),
    };
    state.apply(at(1), Input::Answer(answer));
}

fn telemetry(metrics: &Metrics, events: Events) -> Telemetry {
    let names = NamesInUse::default();
    Telemetry::new(UpstreamName::new("u"), metrics.clone(), events, names)
}

/// Counters that alerts read are there before anything happened, and outlive an endpoint that is hidden for a while.
#[test]
fn counters_start_at_zero_and_outlive_a_hidden_endpoint() {
    let metrics = Metrics::default();
    let mut telemetry = telemetry(&metrics, Events::new(Log::default()));
    let new = |endpoints: Vec<EndpointSpec>| {
        let (name, policy) = (UpstreamName::new("u"), UpstreamPolicy::default());
        UpstreamState::new(name, endpoints, policy, Vec::new(), at(0), 7)
    };
    let mut both = new(vec![zonal("a"), zonal("b")]);
    answer(&mut both, "a", 1);
    answer(&mut both, "b", 2);
    let shown = publish::snapshot(&both, at(1), 1);
    telemetry.snapshot(&shown, at(1));
    let of_b = |name: &str| metrics.value(name, &[("endpoint", "b")]);
    for name in [
        "identity_mismatches_total",
        "endpoint_transitions_total",
        "probes_total",
    ] {
        assert_eq!(of_b(name), Some(0.0), "{name}");
    }
    assert_eq!(
        metrics.value("failovers_total", &[("from", "a"), ("to", "b")]),
        Some(0.0)
    );
    let endpoint = &shown.endpoints[1].endpoint;
    assert_eq!(endpoint.name().as_str(), "b");
    let mismatch = Change::Conflict {
        endpoint: Arc::clone(endpoint),
    };
    telemetry.changes(&[mismatch], at(2));
    let mut one = new(vec![zonal("a"), zonal("b")]);
    answer(&mut one, "a", 1);
    telemetry.snapshot(&publish::snapshot(&one, at(3), 2), at(3));
    assert_eq!(of_b("endpoint_healthy"), None);
    assert_eq!(of_b("identity_mismatches_total"), Some(1.0));
    telemetry.snapshot(&shown, at(4));
    assert_eq!(of_b("endpoint_healthy"), Some(0.0));
    assert_eq!(of_b("identity_mismatches_total"), Some(1.0));
}

/// A name that one upstream leaves keeps its gauges as long as another follows it.
#[test]
fn a_shared_name_keeps_its_gauges() {
    let (metrics, names) = (Metrics::default(), NamesInUse::default());
    let of = |upstream: &str| {
        let events = Events::new(Log::default());
        Telemetry::new(
            UpstreamName::new(upstream),
            metrics.clone(),
            events,
            names.clone(),
        )
    };
    let configured = EndpointSpec {
        role: Role::Configured,
        ..zonal("a")
    };
    let state = |endpoints: Vec<EndpointSpec>| {
        let (name, policy) = (UpstreamName::new("u"), UpstreamPolicy::default());
        UpstreamState::new(name, endpoints, policy, Vec::new(), at(0), 7)
    };
    let mut with = state(vec![configured]);
    answer(&mut with, "a", 1);
    let with = publish::snapshot(&with, at(1), 1);
    let without = publish::snapshot(&state(Vec::new()), at(1), 2);
    let gauge = || metrics.value("dns_addresses", &[("name", "a.test")]);
    let (mut one, mut two) = (of("one"), of("two"));
    one.snapshot(&with, at(1));
    two.snapshot(&with, at(1));
    assert_eq!(gauge(), Some(1.0));
    one.snapshot(&without, at(2));
    assert_eq!(gauge(), Some(1.0), "two still follows it");
    // Told again it is the same user.
    two.snapshot(&with, at(3));
    two.snapshot(&without, at(4));
    assert_eq!(gauge(), None);
}

/// An upstream that serves one connection at a time is suspected and cleared several times a second.
#[test]
fn flapping_is_a_few_lines_and_a_sum() {
    let (log, lines) = Log::memory(&LogSettings::default()).unwrap();
    let metrics = Metrics::default();
    let mut telemetry = telemetry(&metrics, Events::new(log.clone()));
    let mut state = UpstreamState::new(
        UpstreamName::new("u"),
        vec![zonal("a")],
        UpstreamPolicy::default(),
        Vec::new(),
        at(0),
        7,
    );
    answer(&mut state, "a", 1);
    let endpoint = Arc::clone(&publish::snapshot(&state, at(1), 1).endpoints[0].endpoint);
    let change = |from, to| Change::Transition {
        endpoint: Arc::clone(&endpoint),
        address: HostPort {
            host: "10.0.0.1".to_owned(),
            port: 8182,
        },
        transition: Transition {
            from,
            to,
            reason: "untouched".into(),
            silent: false,
        },
        detail: None,
    };
    for _ in 0..50 {
        let there = change(HealthState::Up, HealthState::Suspect);
        let back = change(HealthState::Suspect, HealthState::Up);
        telemetry.changes(&[there, back], at(2));
    }
    telemetry.changes(&[], at(30));
    assert!(log.flush(Duration::from_secs(10)));
    let text = lines.text();
    assert_eq!(text.lines().count(), FLAPPING_LINES as usize + 1, "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("keeps changing") && last.contains("\"changes\":100"),
        "{last}"
    );
    let counted = metrics.value("endpoint_transitions_total", &[("endpoint", "a")]);
    assert_eq!(counted, Some(100.0), "every change is counted");
}
