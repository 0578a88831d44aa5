//! No answer: to the connect (the several causes of a timeout), and after it.

use super::dns::fake::{A, Reply};
use super::dns::{VPCE, fake_dns, ip};
use super::*;

const FAIL: CheckVerdict = CheckVerdict::Fail;

async fn silent(mock: &Mock, zones: &[&str]) {
    for zone in zones {
        mock.set_mode(zone, ZoneMode::Silent).await.unwrap();
    }
}

#[tokio::test]
async fn no_zone_answers() {
    let mock = mock_zones([127, 0, 71, 1]);
    silent(&mock, &["a", "b", "c"]).await;
    let report = report(&subject(way_of(&mock))).await;
    let check = assert_rule(
        &report,
        &rules::TCP_TIMEOUT,
        FAIL,
        "drops",
        "security group",
    );
    assert!(
        check.evidence.contains("cannot be told from here") && check.evidence.contains("3 of 3"),
        "{}",
        check.evidence
    );
    assert!(
        check.evidence.contains("by lo"),
        "the way is named: {}",
        check.evidence
    );
}

#[tokio::test]
async fn one_zone_does_not_answer() {
    let mock = mock_zones([127, 0, 72, 1]);
    silent(&mock, &["b"]).await;
    let report = report(&subject(way_of(&mock))).await;
    let check = assert_rule(
        &report,
        &rules::TCP_TIMEOUT_SOME,
        CheckVerdict::Warn,
        "outage",
        "failover covers it",
    );
    assert!(
        check.evidence.contains("zone b, 1 of 3"),
        "{}",
        check.evidence
    );
}

/// The name decides which causes a silence has: an address of a VPC endpoint, of a peered VPC, or a public one.
#[tokio::test]
async fn silence_behind_a_vpc_endpoints_name() {
    let mock = mock_zones([127, 0, 73, 1]);
    silent(&mock, &["a", "b", "c"]).await;
    let address = mock.address("a").unwrap();
    let dns = fake_dns().await;
    dns.set(VPCE, A, [Reply::Ips(vec![address.ip()], 60)]);
    let vpce = format!("{VPCE}:{}", address.port());
    let mut subject = subject(resolved(Target {
        vpce: Some(&vpce),
        ..Target::default()
    }));
    subject.dns = dns::settings(&dns);
    let report = report(&subject).await;
    let check = assert_rule(
        &report,
        &rules::TCP_TIMEOUT_VPCE,
        FAIL,
        "pendingAcceptance",
        "accept-vpc-endpoint-connections",
    );
    assert!(
        check
            .causes
            .iter()
            .any(|cause| cause.contains("outside the endpoint's VPC")),
        "{check:?}"
    );
    assert!(
        check
            .steps
            .iter()
            .any(|step| step.contains("--vpc-endpoint-ids vpce-0123456789abcdef0 ")),
        "{check:?}"
    );
}

#[tokio::test]
async fn silence_behind_a_peered_name() {
    let mock = mock_zones([127, 0, 74, 1]);
    silent(&mock, &["a"]).await;
    let address = mock.address("a").unwrap();
    let name = "entry-http.prod.us-east-1.datomic.net";
    let dns = fake_dns().await;
    dns.set(name, A, [Reply::Ips(vec![address.ip()], 60)]);
    let mut subject = subject(explicit(&[(name, address.port(), None)]));
    subject.dns = dns::settings(&dns);
    let report = report(&subject).await;
    let check = assert_rule(
        &report,
        &rules::TCP_TIMEOUT_PEERED,
        FAIL,
        "prod-nodes",
        "Values=prod-nodes",
    );
    assert!(
        check
            .causes
            .iter()
            .any(|cause| cause.contains("both VPCs' route tables")),
        "{check:?}"
    );
}

/// Pure: no public address may be called from a test.
#[test]
fn silence_at_a_public_address_or_by_the_default_route() {
    let found = |address: &str| ProbeResult {
        peer: probe_all::AddressTarget {
            target: 0,
            endpoint: "x".to_owned(),
            host: "db.example.com".to_owned(),
            zone: None,
            socket: SocketAddr::new(ip(address), 8182),
        },
        route: Ok(ip_route::IpRoute {
            source: ip("192.168.1.5"),
            interface: Some("wlan0".to_owned()),
            by_default: true,
        }),
        report: crate::probe::ProbeReport {
            outcome: ProbeOutcome::Timeout,
            connect: None,
            took: Duration::from_secs(4),
            status: None,
            server: None,
        },
        first_bytes: None,
        large_lost: false,
    };
    let subject = subject(explicit(&[("db.example.com", 8182, None)]));
    let public = address_checks::check_all(&subject, &[found("203.0.113.9")]);
    assert!(
        public
            .iter()
            .any(|check| check.rule == Some("TCP_TIMEOUT_PUBLIC")),
        "{public:?}"
    );
    let private = address_checks::check_all(&subject, &[found("10.1.2.3")]);
    let check = private
        .iter()
        .find(|check| check.rule == Some("TCP_TIMEOUT"))
        .unwrap();
    assert!(
        check
            .causes
            .last()
            .unwrap()
            .contains("VPN is not connected"),
        "{check:?}"
    );
    assert!(
        check
            .evidence
            .contains("from 192.168.1.5 by wlan0, the default route"),
        "{check:?}"
    );
}

#[tokio::test]
async fn silence_after_accept() {
    let mock = mock_zones([127, 0, 75, 1]);
    for zone in ["a", "b", "c"] {
        mock.set_mode(zone, ZoneMode::Freeze).await.unwrap();
    }
    let report = report(&subject(way_of(&mock))).await;
    assert_rule(
        &report,
        &rules::BYTES_SILENT,
        FAIL,
        "node hangs",
        "--max-time 10",
    );
}

#[tokio::test]
async fn a_head_without_its_body() {
    let at = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{:s3")
            .await;
        std::future::pending::<()>().await;
    })
    .await;
    let report = report(&subject_at(at)).await;
    let check = assert_rule(
        &report,
        &rules::BYTES_SILENT,
        FAIL,
        "large packets are lost",
        "curl",
    );
    assert!(
        check.evidence.contains("its body did not"),
        "{}",
        check.evidence
    );
}

#[tokio::test]
async fn a_connect_that_is_slower_than_its_limit() {
    let mock = mock_zones([127, 0, 78, 1]);
    let mut subject = subject(way_of(&mock));
    subject.targets[0].connect_timeout = Duration::from_nanos(1);
    let report = report(&subject).await;
    let check = assert_rule(
        &report,
        &rules::TCP_SLOW,
        CheckVerdict::Warn,
        "lost SYN",
        "longer --connect-timeout",
    );
    assert!(check.evidence.contains("limit"), "{}", check.evidence);
}
