//! Membership and identity: which addresses are in the set, and which of them may be used.

use super::*;
use crate::upstream::settings::ExpectIdentity;

#[test]
fn a_mismatch_is_never_offered() {
    let mut story = Story::up();
    story.probe(1, ok("y"));
    assert_eq!(story.order(), "bc");
    assert_eq!(
        story.told(|change| matches!(change, Change::Mismatch { .. })),
        1
    );
    assert!(!story.see().endpoints[0].healthy);
    story.probe(2, ok("y"));
    assert_eq!(
        story.order(),
        "",
        "more agree on another value than on the pinned one"
    );
    let conflict = story.see().identity_conflict.expect("both are named");
    assert_eq!((conflict.0.as_str(), conflict.1.as_str()), ("x", "y"));
    story.send(Input::Reconfigure {
        endpoints: zones(),
        settings: own("a"),
    });
    assert_eq!(story.order(), "ab", "pinned anew to the majority");
}

#[test]
fn an_expected_identity() {
    let mut settings = own("a");
    settings.health.expect_s3_auth_path = ExpectIdentity::Value("y".to_owned());
    let mut story = Story::new(zones(), settings);
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "");
    story.probe(2, ok("y"));
    assert_eq!(story.order(), "bc");
}

#[test]
fn bad_answers_keep_the_set() {
    let mut story = Story::new(
        vec![spec("db", "db", None, Role::Configured)],
        UpstreamPolicy::default(),
    );
    assert_eq!(story.order(), "");
    story.answer("db", &[1, 2]);
    story.probe(1, ok("x"));
    story.probe(2, ok("x"));
    for _ in 0..500 {
        story.answer("db", &[]);
        story.wait(1000);
    }
    assert_eq!(story.order(), "db1db2");
    let name = &story.see().names[0];
    assert!(name.stale && name.last_error.is_some());
    let errors = story.told(|change| matches!(change, Change::DnsError { .. }));
    assert!((1..=10).contains(&errors), "told once a minute: {errors}");
    story.answer("db.", &[1, 2]);
    assert!(!story.see().names[0].stale);
}

#[test]
fn departing_and_coming_back() {
    let mut story = Story::new(
        vec![spec("db", "db", None, Role::Configured)],
        UpstreamPolicy::default(),
    );
    story.answer("db", &[1, 2]);
    story.probe(1, ok("x"));
    story.probe(2, ok("x"));
    for _ in 0..3 {
        story.answer("db", &[2]);
    }
    assert_eq!(story.order(), "db2db1");
    // It is answered again: behind until it is proven.
    story.answer("db", &[1, 2]);
    assert_eq!(story.order(), "db2db1");
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "db1db2");
    // Departed and failing: removed. Its history stays, so it must prove itself.
    for _ in 0..3 {
        story.answer("db", &[2]);
    }
    story.wait(100);
    story.probe(1, ProbeOutcome::Refused);
    story.probe(1, ProbeOutcome::Refused);
    story.wait(100);
    assert_eq!(story.order(), "db");
    story.wait(60_000);
    story.answer("db", &[1, 2]);
    assert_eq!(story.state(1), HealthState::Down);
    assert_eq!(story.order(), "db2db1");
    // After the hour it is new again.
    for _ in 0..3 {
        story.answer("db", &[2]);
    }
    story.wait(601_000);
    assert_eq!(story.order(), "db");
    story.wait(3_600_000);
    story.answer("db", &[1, 2]);
    assert_eq!(story.state(1), HealthState::Unknown);
}

#[test]
fn regional_and_zonal_names() {
    let mut story = Story::new(
        vec![
            spec("regional", "vpce", None, Role::Regional),
            spec("a", "vpce-a", Some("a"), Role::Zonal),
            spec("b", "vpce-b", Some("b"), Role::Zonal),
            spec("f", "vpce-f", Some("f"), Role::Zonal),
        ],
        own("a"),
    );
    story.answer("vpce-f", &[]);
    assert_eq!(
        story.see().endpoints.len(),
        1,
        "candidates are no endpoints"
    );
    assert_eq!(
        story.told(|change| matches!(change, Change::DnsError { .. })),
        0
    );
    story.answer("vpce", &[1, 2, 3]);
    assert_eq!(story.order(), "regional1regional2regional3");
    story.answer("vpce-a", &[1]);
    story.answer("vpce-b", &[2]);
    assert_eq!(
        story.order(),
        "aregionalb",
        "each address belongs to its zone"
    );
    story.answer("vpce", &[1, 2]);
    story.answer("vpce", &[1, 2]);
    story.answer("vpce", &[1, 2]);
    for n in 1..=3 {
        story.probe(n, ok("x"));
    }
    story.probe(3, ProbeOutcome::Refused);
    story.wait(100);
    story.probe(3, ProbeOutcome::Refused);
    story.wait(100);
    assert_eq!(story.order(), "ab");
    assert_eq!(
        story.see().endpoints.len(),
        2,
        "an empty regional name is no endpoint"
    );
    // A zonal shift: in rank only, and never removed.
    for _ in 0..3 {
        story.answer("vpce", &[2]);
    }
    assert_eq!(story.order(), "ba");
    story.wait(700_000);
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "ba");
    story.answer("vpce", &[1, 2]);
    assert_eq!(story.order(), "ab");
}

#[test]
fn the_old_peered_name_stands_in() {
    let mut story = Story::new(
        vec![
            spec("entry-http", "entry-http", None, Role::Peered),
            spec("entry", "entry", None, Role::PeeredOld),
        ],
        UpstreamPolicy::default(),
    );
    story.answer("entry", &[9]);
    assert_eq!(story.order(), "entry");
    story.answer("entry-http", &[1]);
    assert_eq!(story.order(), "entry-http");
    story.answer("entry-http", &[]);
    assert_eq!(story.order(), "entry-http");
}

#[test]
fn our_own_listener_is_never_used() {
    let mut story = Story::new(
        vec![spec("db", "db", None, Role::Configured)],
        UpstreamPolicy::default(),
    );
    story.send(Input::OwnListeners(vec![at(1)]));
    story.answer("db", &[1]);
    assert_eq!(story.order(), "");
    assert!(story.see().names[0].last_error.is_some());
    story.answer("db", &[1, 2]);
    assert_eq!(story.order(), "db");
    story.send(Input::OwnListeners(vec![at(2)]));
    assert_eq!(story.order(), "");
}
