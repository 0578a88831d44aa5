//! Stage names: answers that work, or seem to, and will hurt.

use super::dns::fake::{A, AAAA, Reply};
use super::dns::{HTTP, VPCE, ZONE_A, fake_dns, ips, names_of, of, settings};
use super::*;

const FAIL: CheckVerdict = CheckVerdict::Fail;

#[tokio::test]
async fn a_vpc_endpoint_that_is_gone() {
    let dns = fake_dns().await;
    let report = of(
        resolved(Target {
            vpce: Some(VPCE),
            ..Target::default()
        }),
        &[&dns],
    )
    .await;
    assert_rule(
        &report,
        &rules::NAME_VPCE_MISSING,
        FAIL,
        "deleted",
        "--vpc-endpoint-ids vpce-0123456789abcdef0 ",
    );
}

#[tokio::test]
async fn zones_of_a_vpc_endpoint() {
    let dns = fake_dns().await;
    dns.set(VPCE, A, [ips("127.0.85.1")]);
    dns.set(ZONE_A, A, [ips("127.0.85.1")]);
    let target = Target {
        vpce: Some(VPCE),
        ..Target::default()
    };
    let report = of(resolved(target), &[&dns]).await;
    // Five zones that do not exist are no fault, one address is a warning.
    let zones = report.checks.iter().find(|check| {
        check
            .evidence
            .contains("zones with an endpoint: us-east-1a")
    });
    assert_eq!(zones.unwrap().verdict, CheckVerdict::Pass);
    assert_rule(
        &report,
        &rules::NAME_ONE_ADDRESS,
        CheckVerdict::Warn,
        "one subnet only",
        "--vpc-endpoint-id vpce-0123456789abcdef0 ",
    );
    let dns = fake_dns().await;
    dns.set(VPCE, A, [ips("127.0.85.1 127.0.85.2")]);
    let report = of(resolved(target), &[&dns]).await;
    assert_rule(
        &report,
        &rules::NAME_ZONES_MISSING,
        CheckVerdict::Warn,
        "alias",
        "DnsEntries[].DnsName",
    );
}

#[tokio::test]
async fn one_address_while_zones_are_configured() {
    let dns = fake_dns().await;
    for name in ["a.test", "b.test", "c.test"] {
        dns.set(name, A, [ips("127.0.86.1")]);
    }
    let zones = [
        ("a.test", 8182, Some("a")),
        ("b.test", 8182, Some("b")),
        ("c.test", 8182, Some("c")),
    ];
    let report = of(explicit(&zones), &[&dns]).await;
    let check = assert_rule(
        &report,
        &rules::NAME_SAME_ADDRESS,
        CheckVerdict::Warn,
        "regional name",
        "its own name",
    );
    assert!(
        check
            .evidence
            .contains("3 endpoints, all at 127.0.86.1:8182"),
        "{}",
        check.evidence
    );
    // A zonal name given alone is named as the cause.
    let dns = fake_dns().await;
    dns.set(ZONE_A, A, [ips("127.0.86.1")]);
    let report = of(explicit(&[(ZONE_A, 8182, Some("us-east-1a"))]), &[&dns]).await;
    let check = assert_rule(
        &report,
        &rules::NAME_ONE_ADDRESS,
        CheckVerdict::Warn,
        "zonal name",
        "--vpce NAME",
    );
    assert!(
        check
            .evidence
            .contains("is the name of zone us-east-1a alone"),
        "{}",
        check.evidence
    );
}

#[tokio::test]
async fn public_mixed_and_split_answers() {
    let dns = fake_dns().await;
    dns.set(HTTP, A, [ips("203.0.113.7 203.0.113.8")]);
    let report = names_of(explicit(&[(HTTP, 8182, None)]), &[&dns]).await;
    assert_rule(
        &report,
        &rules::NAME_PUBLIC,
        CheckVerdict::Warn,
        "split horizon",
        "--dns-server",
    );
    dns.set(HTTP, A, [ips("203.0.113.7 10.0.0.8")]);
    let report = names_of(explicit(&[(HTTP, 8182, None)]), &[&dns]).await;
    assert_rule(
        &report,
        &rules::NAME_MIXED,
        CheckVerdict::Warn,
        "two zones",
        "--endpoint",
    );
    let inside = fake_dns().await;
    inside.set(HTTP, A, [ips("10.0.0.8 10.0.0.9")]);
    let report = names_of(explicit(&[(HTTP, 8182, None)]), &[&inside, &dns]).await;
    let check = assert_rule(
        &report,
        &rules::NAME_DISAGREE,
        CheckVerdict::Warn,
        "first that answers",
        "resolv.conf",
    );
    assert!(
        check.evidence.contains("private") && check.evidence.contains("public"),
        "{}",
        check.evidence
    );
}

#[tokio::test]
async fn names_without_addresses() {
    let dns = fake_dns().await;
    dns.set_both("db.test", Reply::NoData);
    let report = of(explicit(&[("db.test", 8182, None)]), &[&dns]).await;
    assert_rule(
        &report,
        &rules::NAME_EMPTY,
        FAIL,
        "another kind",
        "dig db.test",
    );
    let report = of(explicit(&[("nowhere.test", 8182, None)]), &[&dns]).await;
    assert_rule(
        &report,
        &rules::NAME_MISSING,
        FAIL,
        "misspelt",
        "dig nowhere.test",
    );
}

#[tokio::test]
async fn local_answers_are_refused() {
    let dns = fake_dns().await;
    dns.set(HTTP, A, [ips("127.0.0.1")]);
    dns.set(HTTP, AAAA, [Reply::NoData]);
    let mut subject = DoctorInput {
        dns: settings(&dns),
        ..subject(explicit(&[(HTTP, 8182, None)]))
    };
    subject.dns.allow_local_answers = false;
    let report = report(&subject).await;
    assert_rule(
        &report,
        &rules::NAME_LOCAL_ONLY,
        FAIL,
        "ad blocker",
        "--allow-local-answers",
    );
}

/// The first server's word counts, as in entryway's own lookups: a later one that knows better does not help.
#[tokio::test]
async fn a_name_that_the_first_server_denies() {
    let (first, second) = (fake_dns().await, fake_dns().await);
    second.set("db.test", A, [ips("127.0.87.1")]);
    let report = of(explicit(&[("db.test", 8182, None)]), &[&first, &second]).await;
    assert_rule(
        &report,
        &rules::NAME_MISSING,
        FAIL,
        "private zone",
        "dig db.test",
    );
    assert_eq!(report.verdict(), FAIL);
}

/// Everything is slow and broken at once, and still it ends in time.
#[tokio::test]
async fn the_worst_case_ends_in_time() {
    let dns = fake_dns().await;
    let names: Vec<String> = (0..12).map(|number| format!("zone{number}.test")).collect();
    let mock = mock_zones([127, 0, 88, 1]);
    mock.set_mode("a", ZoneMode::Silent).await.unwrap();
    mock.set_mode("b", ZoneMode::Freeze).await.unwrap();
    for name in &names {
        let late = Reply::Delay(
            Duration::from_millis(1900),
            Box::new(ips("127.0.88.1 127.0.88.2")),
        );
        dns.set(name, A, [late]);
        dns.set(name, AAAA, [Reply::Silence]);
    }
    let port = mock.address("a").unwrap().port();
    let endpoints: Vec<(&str, u16, Option<&str>)> = names
        .iter()
        .map(|name| (name.as_str(), port, None))
        .collect();
    let mut subject = DoctorInput {
        dns: settings(&dns),
        ..subject(explicit(&endpoints))
    };
    subject.dns.timeout = Duration::from_secs(30);
    let report = report(&subject).await;
    assert_eq!(report.verdict(), FAIL, "{}", report.text(false));
}
