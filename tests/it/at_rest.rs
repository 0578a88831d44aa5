//! Only connections at rest are closed early: an answer that takes 5 s survives drain, rebalance, max age and shutdown.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::client::{End, ping, read_exactly, read_out};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, Entryway, eventually, stays};
use entryway::upstream::input::{Input, Intent};

const ANSWER: Duration = Duration::from_secs(5);

async fn ask(entryway: &Entryway, slow: &Upstream) -> TcpStream {
    let mut client = entryway.connect().await;
    client.write_all(b"a long query").await.unwrap();
    eventually("the query has arrived", || slow.bytes() >= 12).await;
    client
}

async fn answered(client: &mut TcpStream) {
    assert_eq!(read_exactly(client, 12).await, b"a long query");
}

#[tokio::test]
async fn a_slow_answer_survives_the_endpoints_drain_and_the_shutdown() {
    let (slow, other) = (Upstream::slow(ANSWER).await, Upstream::echo().await);
    let endpoints = [
        format!("{}?zone=a&name=near", slow.address),
        format!("{}?zone=b&name=far", other.address),
    ];
    // The last fifth of the shutdown, in which a second of quiet is enough, comes behind the answer.
    let conf = Conf::to(&endpoints).upstream(r#"zone = "a""#);
    let entryway = Entryway::start(&conf.rest(r#"shutdown.max_delay = "10s""#)).await;
    let mut client = ask(&entryway, &slow).await;
    let intent = Intent::Drain;
    entryway.handles.tell_all(&Input::Intent {
        endpoint: entryway::types::EndpointName::new("near"),
        intent,
    });
    let drained = || {
        entryway.handles.upstreams[0]
            .view
            .load()
            .endpoints
            .iter()
            .any(|view| view.intent == Intent::Drain)
    };
    eventually("drained", drained).await;
    // New connections go elsewhere at once.
    ping(&mut entryway.connect().await, b"elsewhere").await;
    assert_eq!(other.accepted(), 1);
    stays("the query is left alone", Duration::from_secs(2), || {
        slow.accepted() == 1
    })
    .await;
    let asked = tokio::spawn(async move {
        answered(&mut client).await;
        read_out(&mut client).await
    });
    // And now a shutdown on top.
    let (ended, _, past) = entryway.drain().await;
    assert_eq!(asked.await.unwrap(), (Vec::new(), End::Fin));
    assert_eq!(ended.cut, 0);
    past.check();
}

#[tokio::test]
async fn a_slow_answer_survives_max_age_which_then_closes_it() {
    let slow = Upstream::slow(ANSWER).await;
    let conf = Conf::to(&[slow.address]).upstream(r#"tcp.max_age = "1s""#);
    let entryway = Entryway::start(&conf).await;
    let mut client = ask(&entryway, &slow).await;
    let from = client.local_addr().unwrap();
    answered(&mut client).await;
    // At rest now, and quiet for 10 s: the age counts.
    assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
    drop(client);
    let line = entryway.closes(from, "max_age").await;
    assert!(line["conn.idle_ms"].as_u64().unwrap() >= 9_900, "{line}");
    crate::harness::no_leaks(entryway).await;
}

#[tokio::test]
async fn after_a_failback_pairs_at_rest_are_moved_and_a_slow_answer_is_not() {
    let near = Upstream::echo().await;
    let far = Upstream::start("127.0.0.1:0", |mut stream, read| async move {
        // Questions are answered after 5 s, anything else at once.
        let mut message = [0; 4096];
        while let Ok(got) = tokio::io::AsyncReadExt::read(&mut stream, &mut message).await {
            read.fetch_add(got, std::sync::atomic::Ordering::Relaxed);
            if message[..got].starts_with(b"a long") {
                tokio::time::sleep(ANSWER).await;
            }
            if got == 0 || stream.write_all(&message[..got]).await.is_err() {
                break;
            }
        }
    })
    .await;
    let endpoints = [
        format!("{}?zone=a&name=near", near.address),
        format!("{}?zone=b&name=far", far.address),
    ];
    let conf = Conf::to(&endpoints)
        .upstream(r#"zone = "a""#)
        .upstream(r#"failback.after = "1s""#);
    let entryway = Entryway::start(&conf.upstream(r#"failback.ramp = "1s""#)).await;
    let intent = |intent| {
        entryway.handles.tell_all(&Input::Intent {
            endpoint: entryway::types::EndpointName::new("near"),
            intent,
        });
    };
    intent(Intent::Drain);
    let is = |intent| {
        entryway.handles.upstreams[0]
            .view
            .load()
            .endpoints
            .iter()
            .any(|view| view.intent == intent && view.endpoint.name().as_str() == "near")
    };
    eventually("drained", || is(Intent::Drain)).await;
    let mut rest = entryway.connect().await;
    let from = rest.local_addr().unwrap();
    ping(&mut rest, b"hello").await;
    let mut client = ask(&entryway, &far).await;
    intent(Intent::Ready);
    eventually("ready", || is(Intent::Ready)).await;
    let watch = tokio::spawn(async move { read_out(&mut rest).await });
    answered(&mut client).await;
    assert_eq!(watch.await.unwrap(), (Vec::new(), End::Fin));
    assert_eq!(entryway.closes(from, "rebalance").await["endpoint"], "far");
    crate::harness::no_leaks(entryway).await;
}
