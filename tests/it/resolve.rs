//! Names end to end: through a scripted server, with local answers allowed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::client::ping;
use crate::harness::dns::{A, AAAA, FakeDns, Reply};
use crate::harness::upstream::{self, Upstream};
use crate::harness::{Conf, Entryway, eventually, no_leaks, stays};

const NAME: &str = "entry.test.example";

fn conf(dns: &FakeDns, port: u16) -> Conf {
    let conf = Conf::to(&[format!("{NAME}:{port}?name=e")])
        .rest(&format!("dns.servers = [\"{}\"]", dns.addr()));
    let conf = conf
        .rest("dns.allow_local_answers = true")
        .rest(r#"dns.timeout = "500ms""#);
    conf.upstream(r#"health.kind = "tcp""#)
        .upstream(r#"health.interval = "500ms""#)
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// Upstreams on several addresses and one port.
async fn on(lasts: &[u8]) -> Vec<Upstream> {
    'port: loop {
        let first = Upstream::start(&format!("127.0.0.{}:0", lasts[0]), upstream::echo).await;
        let port = first.address.port();
        let mut all = vec![first];
        for last in &lasts[1..] {
            let address = SocketAddr::new(ip(*last), port);
            if std::net::TcpListener::bind(address).is_err() {
                continue 'port;
            }
            all.push(Upstream::start(&address.to_string(), upstream::echo).await);
        }
        return all;
    }
}

fn sockets(entryway: &Entryway) -> Vec<IpAddr> {
    let snapshot = entryway.handles.upstreams[0].view.load();
    let mut ips: Vec<_> = snapshot
        .all()
        .map(|(_, view)| view.address.socket.ip())
        .collect();
    ips.sort_unstable();
    ips
}

#[tokio::test]
async fn new_addresses_are_followed() {
    let upstreams = on(&[21, 22]).await;
    let dns = FakeDns::start().await;
    dns.set_both(NAME, Reply::Ips(vec![ip(21)], 1));
    let entryway = Entryway::start(&conf(&dns, upstreams[0].address.port())).await;
    entryway.ready(1).await;
    ping(&mut entryway.connect().await, b"one").await;
    dns.set_both(NAME, Reply::Ips(vec![ip(21), ip(22)], 1));
    let began = Instant::now();
    entryway.ready(2).await;
    println!("TTL 1 s: a new address in use after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(
        entryway.metric("entryway_dns_addresses", &[("name", NAME)]),
        2.0
    );
    entryway.logged("dns.change").await;
    // The first goes away for good: the second serves.
    dns.set_both(NAME, Reply::Ips(vec![ip(22)], 1));
    drop(upstreams.into_iter().next());
    eventually("only the second", || sockets(&entryway) == [ip(22)]).await;
    no_leaks(entryway).await;
}

/// Answers without addresses, as many kinds as there are.
fn bad_answers() -> Vec<Reply> {
    vec![
        Reply::NoData,
        Reply::NxDomain,
        Reply::ServFail,
        Reply::Refused,
        Reply::FormErr,
        Reply::NotImp,
        Reply::Silence,
        Reply::Truncated(Box::new(Reply::NoData)),
        Reply::TruncatedNoTcp,
        Reply::TruncatedTwice,
        Reply::Garbage,
        Reply::Short,
        Reply::Empty,
        Reply::WrongId,
        Reply::WrongQuestion,
        Reply::WrongSource,
        Reply::WrongOwner,
        Reply::Echo,
        Reply::LyingCounts,
        Reply::BadLength,
        Reply::PointerLoop,
        Reply::CnameLoop,
        Reply::CnameNowhere,
        Reply::BadVers,
        Reply::NoEdns(Box::new(Reply::NotImp), Box::new(Reply::NoData)),
        Reply::WrongOpcode,
        Reply::WrongClass,
        Reply::WrongRecordClass,
    ]
}

#[tokio::test]
async fn bad_answers_never_empty_the_set() {
    let upstreams = on(&[23]).await;
    let dns = FakeDns::start().await;
    let bad: Vec<(String, Reply)> = bad_answers()
        .into_iter()
        .enumerate()
        .map(|(place, reply)| (format!("bad{place}.test.example"), reply))
        .collect();
    let port = upstreams[0].address.port();
    let good = || Reply::Ips(vec![ip(23)], 1);
    let mut endpoints = Vec::new();
    for (name, _) in &bad {
        dns.set_both(name, good());
        endpoints.push(format!("{name}:{port}?name={name}"));
    }
    let conf = Conf::to(&endpoints)
        .rest(&format!("dns.servers = [\"{}\"]", dns.addr()))
        .rest("dns.allow_local_answers = true")
        .rest(r#"dns.timeout = "500ms""#)
        .upstream(r#"health.kind = "tcp""#);
    let entryway = Entryway::start(&conf).await;
    let gauge = |what: &str, name: &str| entryway.metric(what, &[("name", name)]);
    let fresh = |name: &str| {
        gauge("entryway_dns_addresses", name) == 1.0 && gauge("entryway_dns_stale", name) == 0.0
    };
    for (name, _) in &bad {
        eventually(&format!("{name}: good"), || fresh(name)).await;
    }
    for (name, reply) in &bad {
        dns.set_both(name, reply.clone());
    }
    for (name, reply) in &bad {
        let stale = || gauge("entryway_dns_stale", name) == 1.0;
        eventually(&format!("{reply:?}: stale"), stale).await;
    }
    // Bad for a while, several times over.
    stays("all kept", Duration::from_secs(3), || {
        let all = bad.iter();
        all.filter(|(name, _)| gauge("entryway_dns_addresses", name) == 1.0)
            .count()
            == bad.len()
    })
    .await;
    ping(&mut entryway.connect().await, b"as before").await;
    entryway.logged("dns.error").await;
    for (name, _) in &bad {
        dns.set_both(name, good());
    }
    entryway.handles.refresh();
    for (name, reply) in &bad {
        eventually(&format!("{reply:?}: fresh again"), || fresh(name)).await;
    }
    println!("{} kinds of bad answers: no address lost", bad.len());
    no_leaks(entryway).await;
}

#[tokio::test]
async fn odd_but_good_answers_are_used() {
    let upstreams = on(&[29]).await;
    let port = upstreams[0].address.port();
    let slow = Reply::Delay(Duration::from_millis(400), Box::new(Reply::NoData));
    let dns = FakeDns::start().await;
    dns.set_both("chain.test.example", Reply::Cnames(3, vec![ip(29)], 5));
    dns.set("half.test.example", A, [Reply::Ips(vec![ip(29)], 5)]);
    dns.set("half.test.example", AAAA, [slow]);
    for name in ["chain.test.example", "half.test.example"] {
        let text = conf(&dns, port).text().replace(NAME, name);
        let entryway = Entryway::start_text(&text).await;
        let took = entryway.ready(1).await;
        println!("{name}: in use after {took:?}");
        ping(&mut entryway.connect().await, b"odd").await;
        no_leaks(entryway).await;
    }
    // Hundreds of records are cut to what can be probed, and do no harm.
    dns.set_both("many.test.example", Reply::Many(500));
    let text = conf(&dns, port).text().replace(NAME, "many.test.example");
    let entryway = Entryway::start_text(&text).await;
    eventually("some are known", || !sockets(&entryway).is_empty()).await;
    println!("500 records: {} addresses", sockets(&entryway).len());
    no_leaks(entryway).await;
}

#[tokio::test]
async fn rotating_answers_do_not_flap() {
    let upstreams = on(&[24, 25, 26]).await;
    let dns = FakeDns::start().await;
    dns.set_both(NAME, Reply::Rotate(vec![ip(24), ip(25), ip(26)], 1));
    let entryway = Entryway::start(&conf(&dns, upstreams[0].address.port())).await;
    entryway.ready(3).await;
    stays("three addresses", Duration::from_secs(4), || {
        sockets(&entryway).len() == 3
    })
    .await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_name_without_an_address_is_used_soon_after_it_has_one() {
    let upstreams = on(&[27]).await;
    let dns = FakeDns::start().await;
    dns.set_both(NAME, Reply::NxDomain);
    let entryway = Entryway::start(&conf(&dns, upstreams[0].address.port())).await;
    let address = entryway.address();
    // A client is held meanwhile.
    let client = tokio::spawn(async move {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        ping(&mut client, b"patience").await;
    });
    eventually("asked three times", || dns.asked(NAME, A) >= 3).await;
    dns.set_both(NAME, Reply::Ips(vec![ip(27)], 60));
    let began = Instant::now();
    entryway.ready(1).await;
    let took = began.elapsed();
    println!("NXDOMAIN at the start: in use {took:?} after it was there");
    assert!(took < Duration::from_secs(5), "{took:?}");
    client.await.unwrap();
    no_leaks(entryway).await;
}

#[tokio::test]
async fn local_answers_are_refused_unless_allowed() {
    let upstreams = on(&[28]).await;
    let dns = FakeDns::start().await;
    dns.set_both(NAME, Reply::Ips(vec![ip(28)], 1));
    let conf = conf(&dns, upstreams[0].address.port()).listener(r#"when_all_down = "try""#);
    let text = conf.text().replace(
        "dns.allow_local_answers = true",
        "dns.allow_local_answers = false",
    );
    assert!(text.contains("allow_local_answers = false"));
    let entryway = Entryway::start_text(&text).await;
    let told = entryway.logged("dns.error").await;
    assert!(told[0].to_string().contains("127.0.0.28"), "{told:?}");
    assert!(sockets(&entryway).is_empty());
    assert_eq!(upstreams[0].accepted(), 0);
    no_leaks(entryway).await;
}
