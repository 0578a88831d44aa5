//! Stage resolver, and names that are not there, with servers that follow a script.

use super::*;
use crate::dns::SystemFiles;
use fake::{A, FakeDns, Reply};

pub(super) use crate::dns::tests::fake;

pub(super) const VPCE: &str =
    "vpce-0123456789abcdef0-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
pub(super) const ZONE_A: &str = "vpce-0123456789abcdef0-abcd1234-us-east-1a.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
pub(super) const HTTP: &str = "entry-http.prod.us-east-1.datomic.net";
pub(super) const ENTRY: &str = "entry.prod.us-east-1.datomic.net";
const FAIL: CheckVerdict = CheckVerdict::Fail;

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

pub(super) fn ips(text: &str) -> Reply {
    Reply::Ips(text.split(' ').map(ip).collect(), 60)
}

fn peering() -> UpstreamTarget {
    resolved(Target {
        peering: true,
        system: Some("prod"),
        region: Some("us-east-1"),
        ..Target::default()
    })
}

pub(super) async fn of(target: UpstreamTarget, servers: &[&FakeDns]) -> Diagnosis {
    let subject = DoctorInput {
        dns: settings_of(servers),
        ..subject(target)
    };
    report(&subject).await
}

/// The stages up to names alone: for answers that no test may connect to.
pub(super) async fn names_of(target: UpstreamTarget, servers: &[&FakeDns]) -> Diagnosis {
    let subject = DoctorInput {
        dns: settings_of(servers),
        ..subject(target)
    };
    let names = crate::doctor::dns_lookup::look_up(&subject).await;
    let mut checks = dns_checks::check_servers(&names);
    checks.extend(dns_checks::check_names(&subject, &names));
    Diagnosis::new(checks, &HashSet::new(), 1)
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
    assert!(
        check.steps[0].contains("Hosted zones → prod.us-east-1.datomic.net"),
        "{check:?}"
    );
    assert_eq!(check.subject, HTTP);
}

#[tokio::test]
async fn a_query_group_that_does_not_exist_is_told_from_a_system_that_does_not() {
    let group = || {
        resolved(Target {
            peering: true,
            system: Some("prod"),
            region: Some("us-east-1"),
            query_group: Some("reports"),
            ..Target::default()
        })
    };
    let dns = fake_dns().await;
    dns.set(HTTP, A, [ips("10.0.0.1")]);
    let report = names_of(group(), &[&dns]).await;
    let rule = |report: &Diagnosis, rule: &Rule| {
        report
            .checks
            .iter()
            .any(|check| check.rule == Some(rule.id))
    };
    assert!(
        rule(&report, &rules::NAME_GROUP_MISSING),
        "{}",
        report.text(false)
    );
    assert!(!rule(&report, &rules::NAME_PEERED_MISSING));
    let dns = fake_dns().await;
    let report = names_of(group(), &[&dns]).await;
    assert!(
        rule(&report, &rules::NAME_PEERED_MISSING),
        "{}",
        report.text(false)
    );
    assert!(!rule(&report, &rules::NAME_GROUP_MISSING));
}

#[tokio::test]
async fn peering_tells_which_name_lives() {
    let dns = fake_dns().await;
    dns.set(ENTRY, A, [ips("127.0.81.1 127.0.81.2")]);
    let report = of(peering(), &[&dns]).await;
    let line = report
        .checks
        .iter()
        .find(|check| check.stage == Stage::Names && check.subject == HTTP)
        .unwrap();
    assert_eq!(line.verdict, CheckVerdict::Skip);
    assert!(line.evidence.contains(ENTRY), "{}", line.evidence);
}

#[tokio::test]
async fn the_name_of_the_other_era() {
    let dns = fake_dns().await;
    dns.set(HTTP, A, [ips("127.0.82.1")]);
    let report = of(explicit(&[(ENTRY, 8182, None)]), &[&dns]).await;
    let check = assert_rule(
        &report,
        &rules::NAME_ENTRY_IS_HTTP,
        FAIL,
        "884-9095",
        &format!("use {HTTP} in place"),
    );
    assert!(check.evidence.contains("884-9095"), "{}", check.evidence);
    let dns = fake_dns().await;
    dns.set(ENTRY, A, [ips("127.0.82.1")]);
    let report = of(explicit(&[(HTTP, 8182, None)]), &[&dns]).await;
    assert_rule(
        &report,
        &rules::NAME_HTTP_IS_ENTRY,
        FAIL,
        "before release 884-9095",
        &format!("use {ENTRY} in place"),
    );
}

#[tokio::test]
async fn one_server_fails_and_another_answers() {
    for bad in [Reply::ServFail, Reply::Silence, Reply::Refused] {
        let (first, second) = (fake_dns().await, fake_dns().await);
        first.set_both(HTTP, bad.clone());
        first.set_both(ENTRY, bad);
        second.set(HTTP, A, [ips("127.0.83.1 127.0.83.2")]);
        let report = of(peering(), &[&first, &second]).await;
        let check = assert_rule(
            &report,
            &rules::RESOLVER_ONE_BAD,
            CheckVerdict::Warn,
            "VPN's server",
            "dig @127.0.0.1",
        );
        assert_eq!(check.subject, first.addr().to_string());
        assert!(
            check.evidence.contains("by lo"),
            "the interface is named: {}",
            check.evidence
        );
    }
}

#[tokio::test]
async fn every_server_fails() {
    let dns = fake_dns().await;
    dns.set_both(HTTP, Reply::ServFail);
    dns.set_both(ENTRY, Reply::Silence);
    let report = of(peering(), &[&dns]).await;
    assert_rule(
        &report,
        &rules::RESOLVER_ALL_BAD,
        FAIL,
        "drops UDP and TCP 53",
        "enableDnsSupport",
    );
    assert_rule(
        &report,
        &rules::NAME_NO_ANSWER,
        FAIL,
        "out of reach or failed",
        "resolver-rules",
    );
}

#[tokio::test]
async fn no_resolver_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let files = SystemFiles {
        resolv_conf: folder.path().join("resolv.conf"),
        hosts: folder.path().join("hosts"),
    };
    // Without the file this machine is asked; one that cannot be read names nobody.
    std::fs::create_dir(&files.resolv_conf).unwrap();
    let subject = DoctorInput {
        files,
        ..subject(peering())
    };
    let report = report(&subject).await;
    let check = assert_rule(
        &report,
        &rules::RESOLVER_NONE,
        FAIL,
        "names no server",
        "/etc/resolv.conf",
    );
    assert!(check.evidence.contains("resolv.conf"), "{}", check.evidence);
}

#[tokio::test]
async fn only_with_a_search_domain() {
    let dns = fake_dns().await;
    dns.set("db.corp.test", A, [ips("127.0.84.1")]);
    let folder = tempfile::tempdir().unwrap();
    let files = SystemFiles {
        resolv_conf: folder.path().join("resolv.conf"),
        hosts: folder.path().join("hosts"),
    };
    std::fs::write(
        &files.resolv_conf,
        "nameserver 127.0.0.1\nsearch corp.test\n",
    )
    .unwrap();
    let subject = DoctorInput {
        files,
        dns: settings(&dns),
        ..subject(explicit(&[("db", 8182, None)]))
    };
    let report = report(&subject).await;
    assert_rule(
        &report,
        &rules::NAME_SEARCH_ONLY,
        FAIL,
        "cut short",
        "db.corp.test",
    );
}
