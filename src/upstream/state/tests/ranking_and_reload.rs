//! Zones, nearness, probes off, reloads, explanations.

use super::*;
use crate::upstream::explain::WhatIf;
use crate::upstream::settings::ProbeKind;
use crate::upstream::snapshot::ProbeMode;

#[test]
fn own_zone_by_name_or_id() {
    for (set, name, id, expected) in [
        (None, None, None, "abc"),
        (Some("b"), None, None, "bac"),
        (None, Some("c"), None, "cab"),
        (None, Some("us-x"), Some("c"), "cab"),
        // The setting wins, and what was detected translates it.
        (Some("b"), Some("c"), None, "bac"),
        (Some("us-x"), Some("us-x"), Some("c"), "cab"),
        (Some("us-y"), Some("us-x"), Some("c"), "abc"),
    ] {
        let settings = UpstreamPolicy {
            own_zone: set.map(Zone::new),
            ..UpstreamPolicy::default()
        };
        let mut story = Story::new(zones(), settings);
        story.send(Input::OwnZone(name.map(Zone::new)));
        story.send(Input::OwnZoneId(id.map(Zone::new)));
        assert_eq!(story.order(), expected, "{set:?} {name:?} {id:?}");
    }
}

#[test]
fn nearest_stands_in_for_an_unknown_zone() {
    let mut story = Story::new(zones(), UpstreamPolicy::default());
    for n in 1..=3 {
        story.probe(n, ok("x"));
        let seen = story.see();
        let view = seen.address(at(n)).expect("it is known");
        for _ in 0..5 {
            view.address
                .dialled(Duration::from_micros([2000, 500, 600][usize::from(n) - 1]));
        }
    }
    story.wait(1100);
    assert_eq!(story.order(), "bca");
    let tiers: Vec<u8> = story.see().endpoints.iter().map(|view| view.tier).collect();
    assert_eq!(tiers, [1, 0, 0]);
}

#[test]
fn probes_off() {
    let mut settings = own("a");
    settings.health.kind = ProbeKind::Off;
    let mut story = Story::new(zones(), settings);
    assert_eq!(
        (story.state(1), story.order().as_str()),
        (HealthState::Up, "abc")
    );
    story.suspect(1);
    assert_eq!(story.order(), "bca");
    story.wait(9_900);
    assert_eq!(story.order(), "bca");
    story.wait(200);
    assert_eq!(story.order(), "abc");
    assert!(
        story
            .see()
            .all()
            .all(|(_, view)| view.pace == ProbeMode::Off)
    );
}

#[test]
fn a_reload_keeps_what_stays() {
    let mut story = Story::up();
    let before = story.see();
    let mut endpoints = zones();
    endpoints.remove(1);
    endpoints.push(spec("d", "10.0.0.4", Some("d"), Role::Configured));
    story.send(Input::Reconfigure {
        endpoints,
        settings: own("c"),
    });
    assert_eq!(story.order(), "cad");
    assert_eq!(story.state(1), HealthState::Up);
    assert_eq!(
        story.told(|change| matches!(change, Change::EndpointGone(_))),
        1
    );
    let after = story.see();
    assert!(Arc::ptr_eq(
        &before.endpoints[0].endpoint,
        &after.endpoints[0].endpoint
    ));
    assert!(Arc::ptr_eq(
        &before.endpoints[0].addresses[0].address,
        &after.endpoints[0].addresses[0].address
    ));
}

#[test]
fn explain_answers_what_if_from_the_same_order() {
    let mut story = Story::up();
    story.suspect(2);
    let seen = story.see();
    let explained = seen.explain(story.now, &[]);
    let order: Vec<String> = seen
        .order(story.now, 0.0)
        .iter()
        .map(|c| c.address.to_string())
        .collect();
    assert_eq!(
        explained
            .order
            .iter()
            .map(|one| one.address.clone())
            .collect::<Vec<_>>(),
        order
    );
    assert!(
        explained.order[0]
            .reasons
            .iter()
            .any(|reason| reason == "own zone a")
    );
    assert!(
        explained.verdict.contains("a at 10.0.0.1:8182"),
        "{}",
        explained.verdict
    );
    let asked = WhatIf::parse("zone-down=a").expect("a question");
    let explained = seen.explain(story.now, &[asked]);
    assert_eq!(explained.order[0].endpoint.as_str(), "c");
    let nowhere = seen.explain(story.now, &[WhatIf::ZoneDown(Zone::new("q"))]);
    assert!(nowhere.verdict.contains("no endpoint is in zone q"));
    assert!(WhatIf::parse("zone=a").is_err());
}

#[test]
fn endpoints_that_share_an_address_share_its_health() {
    let endpoints = vec![
        spec("one", "10.0.0.1", None, Role::Configured),
        spec("two", "db", None, Role::Configured),
    ];
    let mut story = Story::new(endpoints, UpstreamPolicy::default());
    story.answer("db", &[1, 2]);
    story.probe(1, ProbeOutcome::Refused);
    assert_eq!(story.order(), "two2one", "offered once");
    assert_eq!(story.see().addresses, 2);
}
