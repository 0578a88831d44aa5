//! Stages resolver and names, with servers that follow a script.

use super::*;
use crate::resolve::Files;
use fake::{A, AAAA, FakeDns, Reply};

#[path = "../../../tests/it/harness/dns.rs"]
#[allow(dead_code, unreachable_pub)]
pub(super) mod fake;

pub(super) const VPCE: &str =
    "vpce-0123456789abcdef0-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
const ZONE_A: &str =
    "vpce-0123456789abcdef0-abcd1234-us-east-1a.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
const HTTP: &str = "entry-http.prod.us-east-1.datomic.net";
const ENTRY: &str = "entry.prod.us-east-1.datomic.net";
const FAIL: Verdict = Verdict::Fail;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) async fn fake_dns() -> FakeDns {
    FakeDns::start().await
}

/// Mock zones stand on loopback, which DNS may not name otherwise.
pub(super) fn settings(dns: &FakeDns) -> DnsSettings {
    settings_of(&[dns])
}

fn settings_of(servers: &[&FakeDns]) -> DnsSettings {
    DnsSettings {
        servers: servers.iter().map(|dns| dns.addr()).collect(),
        timeout: Duration::from_millis(500),
        allow_local_answers: true,
        ..DnsSettings::default()
    }
}

fn ips(text: &str) -> Reply {
    Reply::Ips(text.split(' ').map(ip).collect(), 60)
}

fn peering() -> Way {
    cooked(Target { peering: true, system: Some("prod"), region: Some("us-east-1"), ..Target::default() })
}

async fn of(way: Way, servers: &[&FakeDns]) -> Report {
    let subject = Subject { dns: settings_of(servers), ..subject(way) };
    report(&subject).await
}

/// The stages up to names alone: for answers that no test may connect to.
async fn names_of(way: Way, servers: &[&FakeDns]) -> Report {
    let subject = Subject { dns: settings_of(servers), ..subject(way) };
    let names = names::look_up(&subject).await;
    let mut checks = names::judge_servers(&names);
    checks.extend(names::judge_names(&subject, &names));
    Report::new(checks, &HashSet::new(), 1)
}

#[tokio::test]
async fn neither_peered_name_exists() {
    let dns = fake_dns().await;
    let report = of(peering(), &[&dns]).await;
    let check = assert_rule(
        &report,
        &rules::NAME_PEERED_MISSING,
        FAIL,
        "not associated with the system's private hosted zone prod.us-east-1.datomic.net",
        "VPCRegion=us-east-1,VPCId=VPC_ID",
    );
    assert!(check.steps[0].contains("Hosted zones → prod.us-east-1.datomic.net"), "{check:?}");
    assert_eq!(check.subject, HTTP);
}

#[tokio::test]
async fn peering_tells_which_name_lives() {
    let dns = fake_dns().await;
    dns.set(ENTRY, A, [ips("127.0.81.1 127.0.81.2")]);
    let report = of(peering(), &[&dns]).await;
    let line = report.checks.iter().find(|check| check.stage == Stage::Names && check.subject == HTTP).unwrap();
    assert_eq!(line.verdict, Verdict::Skip);
    assert!(line.evidence.contains(ENTRY), "{}", line.evidence);
}

#[tokio::test]
async fn the_name_of_the_other_era() {
    let dns = fake_dns().await;
    dns.set(HTTP, A, [ips("127.0.82.1")]);
    let report = of(way(&[(ENTRY, 8182, None)]), &[&dns]).await;
    let check = assert_rule(&report, &rules::NAME_ENTRY_IS_HTTP, FAIL, "884-9095", &format!("use {HTTP} in place"));
    assert!(check.evidence.contains("884-9095"), "{}", check.evidence);
    let dns = fake_dns().await;
    dns.set(ENTRY, A, [ips("127.0.82.1")]);
    let report = of(way(&[(HTTP, 8182, None)]), &[&dns]).await;
    assert_rule(&report, &rules::NAME_HTTP_IS_ENTRY, FAIL, "before release 884-9095", &format!("use {ENTRY} in place"));
}

#[tokio::test]
async fn one_server_fails_and_another_answers() {
    for bad in [Reply::ServFail, Reply::Silence, Reply::Refused] {
        let (first, second) = (fake_dns().await, fake_dns().await);
        first.set_both(HTTP, bad.clone());
        first.set_both(ENTRY, bad);
        second.set(HTTP, A, [ips("127.0.83.1 127.0.83.2")]);
        let report = of(peering(), &[&first, &second]).await;
        let check = assert_rule(&report, &rules::RESOLVER_ONE_BAD, Verdict::Warn, "VPN's server", "dig @127.0.0.1");
        assert_eq!(check.subject, first.addr().to_string());
        assert!(check.evidence.contains("by lo"), "the interface is named: {}", check.evidence);
    }
}

#[tokio::test]
async fn every_server_fails() {
    let dns = fake_dns().await;
    dns.set_both(HTTP, Reply::ServFail);
    dns.set_both(ENTRY, Reply::Silence);
    let report = of(peering(), &[&dns]).await;
    assert_rule(&report, &rules::RESOLVER_ALL_BAD, FAIL, "drops UDP and TCP 53", "enableDnsSupport");
    assert_rule(&report, &rules::NAME_NO_ANSWER, FAIL, "out of reach or failed", "resolver-rules");
}

#[tokio::test]
async fn no_resolver_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files { resolv_conf: folder.path().join("resolv.conf"), hosts: folder.path().join("hosts") };
    let subject = Subject { files, ..subject(peering()) };
    let report = report(&subject).await;
    let check = assert_rule(&report, &rules::RESOLVER_NONE, FAIL, "names no server", "/etc/resolv.conf");
    assert!(check.evidence.contains("resolv.conf"), "{}", check.evidence);
}

#[tokio::test]
async fn only_with_a_search_domain() {
    let dns = fake_dns().await;
    dns.set("db.corp.test", A, [ips("127.0.84.1")]);
    let folder = tempfile::tempdir().unwrap();
    let files = Files { resolv_conf: folder.path().join("resolv.conf"), hosts: folder.path().join("hosts") };
    std::fs::write(&files.resolv_conf, "nameserver 127.0.0.1\nsearch corp.test\n").unwrap();
    let subject = Subject { files, dns: settings(&dns), ..subject(way(&[("db", 8182, None)])) };
    let report = report(&subject).await;
    assert_rule(&report, &rules::NAME_SEARCH_ONLY, FAIL, "cut short", "db.corp.test");
}

#[tokio::test]
async fn a_vpc_endpoint_that_is_gone() {
    let dns = fake_dns().await;
    let report = of(cooked(Target { vpce: Some(VPCE), ..Target::default() }), &[&dns]).await;
    assert_rule(&report, &rules::NAME_VPCE_MISSING, FAIL, "deleted", "--vpc-endpoint-ids vpce-0123456789abcdef0 ");
}

#[tokio::test]
async fn zones_of_a_vpc_endpoint() {
    let dns = fake_dns().await;
    dns.set(VPCE, A, [ips("127.0.85.1")]);
    dns.set(ZONE_A, A, [ips("127.0.85.1")]);
    let target = Target { vpce: Some(VPCE), ..Target::default() };
    let report = of(cooked(target), &[&dns]).await;
    // Five zones that do not exist are no fault, one address is a warning.
    let zones = report.checks.iter().find(|check| check.evidence.contains("zones with an endpoint: us-east-1a"));
    assert_eq!(zones.unwrap().verdict, Verdict::Pass);
    assert_rule(&report, &rules::NAME_ONE_ADDRESS, Verdict::Warn, "one subnet only", "--vpc-endpoint-id vpce-0123456789abcdef0 ");
    let dns = fake_dns().await;
    dns.set(VPCE, A, [ips("127.0.85.1 127.0.85.2")]);
    let report = of(cooked(target), &[&dns]).await;
    assert_rule(&report, &rules::NAME_ZONES_MISSING, Verdict::Warn, "alias", "DnsEntries[].DnsName");
}

#[tokio::test]
async fn one_address_while_zones_are_configured() {
    let dns = fake_dns().await;
    for name in ["a.test", "b.test", "c.test"] {
        dns.set(name, A, [ips("127.0.86.1")]);
    }
    let zones = [("a.test", 8182, Some("a")), ("b.test", 8182, Some("b")), ("c.test", 8182, Some("c"))];
    let report = of(way(&zones), &[&dns]).await;
    let check = assert_rule(&report, &rules::NAME_SAME_ADDRESS, Verdict::Warn, "regional name", "its own name");
    assert!(check.evidence.contains("3 endpoints, all at 127.0.86.1:8182"), "{}", check.evidence);
    // A zonal name given alone is named as the cause.
    let dns = fake_dns().await;
    dns.set(ZONE_A, A, [ips("127.0.86.1")]);
    let report = of(way(&[(ZONE_A, 8182, Some("us-east-1a"))]), &[&dns]).await;
    let check = assert_rule(&report, &rules::NAME_ONE_ADDRESS, Verdict::Warn, "zonal name", "--vpce NAME");
    assert!(check.evidence.contains("is the name of zone us-east-1a alone"), "{}", check.evidence);
}

#[tokio::test]
async fn public_mixed_and_split_answers() {
    let dns = fake_dns().await;
    dns.set(HTTP, A, [ips("203.0.113.7 203.0.113.8")]);
    let report = names_of(way(&[(HTTP, 8182, None)]), &[&dns]).await;
    assert_rule(&report, &rules::NAME_PUBLIC, Verdict::Warn, "split horizon", "--dns-server");
    dns.set(HTTP, A, [ips("203.0.113.7 10.0.0.8")]);
    let report = names_of(way(&[(HTTP, 8182, None)]), &[&dns]).await;
    assert_rule(&report, &rules::NAME_MIXED, Verdict::Warn, "two zones", "--endpoint");
    let inside = fake_dns().await;
    inside.set(HTTP, A, [ips("10.0.0.8 10.0.0.9")]);
    let report = names_of(way(&[(HTTP, 8182, None)]), &[&inside, &dns]).await;
    let check = assert_rule(&report, &rules::NAME_DISAGREE, Verdict::Warn, "first that answers", "resolv.conf");
    assert!(check.evidence.contains("private") && check.evidence.contains("public"), "{}", check.evidence);
}

#[tokio::test]
async fn names_without_addresses() {
    let dns = fake_dns().await;
    dns.set_both("db.test", Reply::NoData);
    let report = of(way(&[("db.test", 8182, None)]), &[&dns]).await;
    assert_rule(&report, &rules::NAME_EMPTY, FAIL, "another kind", "dig db.test");
    let report = of(way(&[("nowhere.test", 8182, None)]), &[&dns]).await;
    assert_rule(&report, &rules::NAME_MISSING, FAIL, "misspelt", "dig nowhere.test");
}

#[tokio::test]
async fn local_answers_are_refused() {
    let dns = fake_dns().await;
    dns.set(HTTP, A, [ips("127.0.0.1")]);
    dns.set(HTTP, AAAA, [Reply::NoData]);
    let mut subject = Subject { dns: settings(&dns), ..subject(way(&[(HTTP, 8182, None)])) };
    subject.dns.allow_local_answers = false;
    let report = report(&subject).await;
    assert_rule(&report, &rules::NAME_LOCAL_ONLY, FAIL, "ad blocker", "--allow-local-answers");
}

/// The first server's word counts, as in entryway's own lookups: a later one that knows better does not help.
#[tokio::test]
async fn a_name_that_the_first_server_denies() {
    let (first, second) = (fake_dns().await, fake_dns().await);
    second.set("db.test", A, [ips("127.0.87.1")]);
    let report = of(way(&[("db.test", 8182, None)]), &[&first, &second]).await;
    assert_rule(&report, &rules::NAME_MISSING, FAIL, "private zone", "dig db.test");
    assert_eq!(report.verdict(), FAIL);
}

/// Everything is slow and broken at once, and still it ends in time.
#[tokio::test]
async fn the_worst_case_ends_in_time() {
    let dns = fake_dns().await;
    let names: Vec<String> = (0..12).map(|number| format!("zone{number}.test")).collect();
    let mock = mock_zones([127, 0, 88, 1]);
    mock.set_mode("a", Mode::Silent).await.unwrap();
    mock.set_mode("b", Mode::Freeze).await.unwrap();
    for name in &names {
        let late = Reply::Delay(Duration::from_millis(1900), Box::new(ips("127.0.88.1 127.0.88.2")));
        dns.set(name, A, [late]);
        dns.set(name, AAAA, [Reply::Silence]);
    }
    let port = mock.address("a").unwrap().port();
    let endpoints: Vec<(&str, u16, Option<&str>)> = names.iter().map(|name| (name.as_str(), port, None)).collect();
    let mut subject = Subject { dns: settings(&dns), ..subject(way(&endpoints)) };
    subject.dns.timeout = Duration::from_secs(30);
    let report = report(&subject).await;
    assert_eq!(report.verdict(), FAIL, "{}", report.text(false));
}
