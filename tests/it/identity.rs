//! Only addresses of one system are used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::AsyncWriteExt;

use crate::harness::client::read_exactly;
use crate::harness::upstream::{answering, datomic, entry_point};
use crate::harness::{Conf, Entryway, eventually, no_leaks, stays};
use std::time::Duration;

fn conf<T: ToString>(endpoints: &[T]) -> Conf {
    let conf = Conf::to(endpoints)
        .upstream(r#"health.kind = "datomic""#)
        .upstream(r#"health.interval = "300ms""#);
    conf.upstream(r#"health.down_interval = "300ms""#)
}

async fn asks(entryway: &Entryway, identity: &str) {
    let mut client = entryway.connect().await;
    client.write_all(b"POST").await.unwrap();
    let expected = entry_point(identity);
    assert_eq!(read_exactly(&mut client, expected.len()).await, expected);
}

#[tokio::test]
async fn one_of_another_system_is_never_used() {
    let (one, two, odd) = (
        datomic("b/one").await,
        datomic("b/one").await,
        datomic("b/two").await,
    );
    // The odd one is nearest.
    let endpoints = [
        format!("{}?zone=a&name=odd", odd.address),
        format!("{}?zone=b", one.address),
        format!("{}?zone=c", two.address),
    ];
    let entryway = Entryway::start(&conf(&endpoints).upstream(r#"zone = "a""#)).await;
    let view = &entryway.handles.upstreams[0].view;
    eventually("the first round", || {
        view.load().first_round_done && view.load().identity.is_some()
    })
    .await;
    for _ in 0..30 {
        asks(&entryway, "b/one").await;
    }
    let told = entryway.logged("identity.mismatch").await;
    assert_eq!(told[0]["level"], "warn", "{told:?}");
    assert!(entryway.metric("entryway_identity_mismatches_total", &[("endpoint", "odd")]) >= 1.0);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn one_that_becomes_another_system_is_left() {
    let changed = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&changed);
    let turns = answering(Arc::new(move || {
        entry_point(if now.load(Relaxed) { "b/two" } else { "b/one" })
    }))
    .await;
    let (one, two) = (datomic("b/one").await, datomic("b/one").await);
    let endpoints = [
        format!("{}?zone=a&name=turns", turns.address),
        one.address.to_string(),
        two.address.to_string(),
    ];
    let entryway = Entryway::start(&conf(&endpoints).upstream(r#"zone = "a""#)).await;
    entryway.ready(3).await;
    asks(&entryway, "b/one").await;
    changed.store(true, Relaxed);
    let seen = || {
        entryway.metric(
            "entryway_identity_mismatches_total",
            &[("endpoint", "turns")],
        ) >= 1.0
    };
    eventually("the mismatch is seen", seen).await;
    for _ in 0..30 {
        asks(&entryway, "b/one").await;
    }
    no_leaks(entryway).await;
}

#[tokio::test]
async fn without_a_majority_none_is_used_and_both_are_named() {
    let (one, two) = (datomic("b/one").await, datomic("b/two").await);
    let conf = conf(&[one.address, two.address]).listener(r#"when_all_down = "try""#);
    let entryway = Entryway::start(&conf).await;
    let view = &entryway.handles.upstreams[0].view;
    eventually("the conflict", || view.load().identity_conflict.is_some()).await;
    let line = entryway.logged("identity.mismatch").await[0].to_string();
    assert!(line.contains("b/one") && line.contains("b/two"), "{line}");
    let mut client = entryway.connect().await;
    client.write_all(b"POST").await.unwrap();
    assert_eq!(crate::harness::client::read_out(&mut client).await.0, b"");
    stays("unused", Duration::from_millis(300), || {
        view.load().identity_conflict.is_some()
    })
    .await;
    drop(client);
    no_leaks(entryway).await;
}
