//! Stages tcp (refused), bytes, http, identity: servers that answer in every wrong way.

use super::*;

const FAIL: CheckVerdict = CheckVerdict::Fail;

async fn of_answer(answer: &'static str) -> Diagnosis {
    report(&subject_at(says(answer).await)).await
}

#[tokio::test]
async fn three_zones_that_answer_are_well() {
    let mock = mock_zones([127, 0, 61, 1]);
    let report = report(&subject(way_of(&mock))).await;
    assert_eq!(
        report.verdict(),
        CheckVerdict::Pass,
        "{}",
        report.text(false)
    );
    let identity = report
        .checks
        .iter()
        .find(|check| check.stage == Stage::Identity)
        .unwrap();
    assert!(
        identity
            .evidence
            .contains("mock-bucket/mock-system at 3 of 3"),
        "{}",
        identity.evidence
    );
}

#[tokio::test]
async fn a_closed_port() {
    let report = report(&subject_at(closed_port().await)).await;
    assert_rule(
        &report,
        &rules::TCP_REFUSED,
        FAIL,
        "no listener",
        "describe-listeners",
    );
}

#[tokio::test]
async fn one_zone_refused_is_covered_by_the_others() {
    let mock = mock_zones([127, 0, 62, 1]);
    mock.set_mode("b", ZoneMode::Refuse).await.unwrap();
    let report = report(&subject(way_of(&mock))).await;
    let check = assert_rule(
        &report,
        &rules::TCP_REFUSED,
        CheckVerdict::Warn,
        "no listener",
        "describe-groups",
    );
    assert!(check.subject.starts_with("b "));
    assert_eq!(report.verdict(), CheckVerdict::Warn);
}

#[tokio::test]
async fn closed_at_once_after_accept() {
    let at = server(|mut stream| async move {
        // Reads first: unread bytes would turn the FIN into a reset.
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let report = report(&subject_at(at)).await;
    assert_rule(
        &report,
        &rules::BYTES_FIN,
        FAIL,
        "without a healthy target",
        "describe-target-health",
    );
}

#[tokio::test]
async fn reset_at_once_after_accept() {
    let mock = mock_zones([127, 0, 63, 1]);
    for zone in ["a", "b", "c"] {
        mock.set_mode(zone, ZoneMode::Rst).await.unwrap();
    }
    let report = report(&subject(way_of(&mock))).await;
    assert_rule(
        &report,
        &rules::BYTES_RESET,
        FAIL,
        "became unhealthy",
        "describe-target-health",
    );
}

#[tokio::test]
async fn tls_on_the_port() {
    // An alert: fatal, unexpected message.
    let report = of_answer("\u{15}\u{3}\u{3}\0\u{2}\u{2}\n").await;
    assert_rule(&report, &rules::BYTES_TLS, FAIL, "API Gateway", "https://");
}

#[tokio::test]
async fn not_http() {
    let report = of_answer("SSH-2.0-OpenSSH_9.6\u{1b}[2J\r\n").await;
    let check = assert_rule(&report, &rules::BYTES_NOT_HTTP, FAIL, "SSH", "8182");
    assert!(
        check.evidence.contains("SSH-2.0-OpenSSH_9.6\\u{1b}[2J"),
        "{}",
        check.evidence
    );
}

#[tokio::test]
async fn plain_http_to_an_https_port() {
    let answer = "HTTP/1.1 400 Bad Request\r\nServer: awselb/2.0\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n\
        <html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>";
    assert_rule(
        &of_answer(answer).await,
        &rules::HTTP_TLS_PORT,
        FAIL,
        "https listener",
        "https://",
    );
    let go = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    assert_rule(
        &of_answer(go).await,
        &rules::HTTP_TLS_PORT,
        FAIL,
        "https listener",
        "needs no proxy",
    );
}

#[tokio::test]
async fn another_service() {
    let answer = "HTTP/1.1 200 OK\r\nServer: nginx/1.25\r\nContent-Length: 9\r\n\r\n{\"ok\":1}\n";
    let check = of_answer(answer).await;
    let check = assert_rule(
        &check,
        &rules::HTTP_OTHER,
        FAIL,
        "another HTTP service",
        "s3-auth-path",
    );
    assert!(
        check.evidence.contains("nginx/1.25") && check.evidence.contains("{\"ok\":1}"),
        "{}",
        check.evidence
    );
    // The first 80 bytes of a long one, harmless.
    let long = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\u{1b}]0;owned\u{7}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    let report = of_answer(long).await;
    let check = assert_rule(
        &report,
        &rules::HTTP_OTHER,
        FAIL,
        "another HTTP service",
        "curl",
    );
    assert!(
        !check.evidence.contains('\u{1b}') && check.evidence.len() < 260,
        "{}",
        check.evidence
    );
}

#[tokio::test]
async fn a_web_page() {
    let mock = mock_zones([127, 0, 64, 1]);
    for zone in ["a", "b", "c"] {
        mock.set_mode(zone, ZoneMode::Html).await.unwrap();
    }
    let report = report(&subject(way_of(&mock))).await;
    assert_rule(
        &report,
        &rules::HTTP_HTML,
        FAIL,
        "captive portal",
        "browser",
    );
    assert_eq!(
        report
            .text(false)
            .matches("cause 1. a captive portal")
            .count(),
        1
    );
}

#[tokio::test]
async fn an_api_gateway() {
    let answer = "HTTP/1.1 403 Forbidden\r\nx-amzn-ErrorType: ForbiddenException\r\napigw-requestid: a=\r\n\
        Content-Length: 23\r\n\r\n{\"message\":\"Forbidden\"}";
    assert_rule(
        &of_answer(answer).await,
        &rules::HTTP_GATEWAY,
        FAIL,
        "API Gateway",
        "needs no proxy",
    );
}

#[tokio::test]
async fn the_balancers_own_errors_are_told_apart() {
    for (status, rule, cause, step) in [
        (
            "502 Bad Gateway",
            &rules::HTTP_ALB_502,
            "deploy",
            "Target groups",
        ),
        (
            "503 Service Temporarily Unavailable",
            &rules::HTTP_ALB_503,
            "scaled to 0",
            "describe-auto-scaling-groups",
        ),
        (
            "504 Gateway Time-out",
            &rules::HTTP_ALB_504,
            "overloaded",
            "CloudWatch",
        ),
    ] {
        let answer =
            format!("HTTP/1.1 {status}\r\nServer: awselb/2.0\r\nContent-Length: 0\r\n\r\n");
        let report = of_answer(answer.leak()).await;
        assert_rule(&report, rule, FAIL, cause, step);
    }
}

#[tokio::test]
async fn what_a_node_says_itself() {
    let starting = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    assert_rule(
        &of_answer(starting).await,
        &rules::HTTP_503,
        FAIL,
        "starting",
        "wait",
    );
    let busy = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nbusy";
    assert_rule(
        &of_answer(busy).await,
        &rules::HTTP_BUSY,
        FAIL,
        "over its capacity",
        "HttpEndpointThrottled",
    );
    let moved =
        "HTTP/1.1 301 Moved\r\nLocation: https://db.example.com/\r\nContent-Length: 0\r\n\r\n";
    let report = of_answer(moved).await;
    let check = assert_rule(
        &report,
        &rules::HTTP_REDIRECT,
        FAIL,
        "http to https",
        "8182",
    );
    assert!(
        check.evidence.contains("to https://db.example.com/"),
        "{}",
        check.evidence
    );
    let teapot = "HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n";
    assert_rule(
        &of_answer(teapot).await,
        &rules::HTTP_STATUS,
        FAIL,
        "another HTTP service",
        "200",
    );
}

#[tokio::test]
async fn a_slow_answer_is_a_warning() {
    let mock = mock::start(MockConfig {
        base_ip: IpAddr::from([127, 0, 65, 1]),
        behaviour: mock::Behaviour {
            latency: mock::Latency::Fixed(Duration::from_millis(300)),
            ..mock::Behaviour::default()
        },
        ..MockConfig::default()
    })
    .unwrap();
    let mut target = way_of(&mock);
    target.health.timeout = Duration::from_millis(100);
    let report = report(&subject(target)).await;
    assert_rule(
        &report,
        &rules::HTTP_SLOW,
        CheckVerdict::Warn,
        "overloaded",
        "upstream.health.timeout",
    );
    assert_eq!(report.verdict(), CheckVerdict::Warn);
}

#[tokio::test]
async fn two_systems_in_one_upstream() {
    let mock = mock_zones([127, 0, 66, 1]);
    mock.set_mode("c", ZoneMode::OtherIdentity).await.unwrap();
    let report = report(&subject(way_of(&mock))).await;
    let check = assert_rule(
        &report,
        &rules::IDENTITY_MIXED,
        FAIL,
        "two systems",
        "one bucket",
    );
    for seen in [
        "other-mock-bucket/mock-system at c ",
        "mock-bucket/mock-system at a ",
        ", b ",
    ] {
        assert!(check.evidence.contains(seen), "{seen}: {}", check.evidence);
    }
}

#[tokio::test]
async fn another_system_than_expected() {
    let mock = mock_zones([127, 0, 67, 1]);
    let mut target = way_of(&mock);
    target.health.expect_s3_auth_path = ExpectIdentity::Value("prod-bucket/prod".to_owned());
    let report = report(&subject(target)).await;
    let check = assert_rule(
        &report,
        &rules::IDENTITY_OTHER,
        FAIL,
        "another system",
        "--expect-s3-auth-path",
    );
    assert!(
        check
            .evidence
            .contains("expected prod-bucket/prod, found mock-bucket/mock-system"),
        "{}",
        check.evidence
    );
}

#[tokio::test]
async fn with_tcp_probes_a_connect_is_enough() {
    let at = says("anything").await;
    let mut subject = subject_at(at);
    subject.targets[0].health = HealthSettings {
        kind: crate::upstream::settings::ProbeKind::Tcp,
        ..HealthSettings::default()
    };
    let report = report(&subject).await;
    assert_eq!(
        report.verdict(),
        CheckVerdict::Warn,
        "one address only:\n{}",
        report.text(false)
    );
}

/// The server that large packets do not reach: it answers what fits into one.
#[tokio::test]
async fn small_requests_are_answered_and_large_ones_are_lost() {
    let at = server(|mut stream| async move {
        let mut request = [0; 8192];
        let mut length = 0;
        while let Ok(count @ 1..) = stream.read(&mut request[length..]).await {
            length += count;
            if length > 1400 {
                std::future::pending::<()>().await;
            }
            if request[..length].ends_with(b"\r\n\r\n") {
                let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 26\r\n\r\n{:s3-auth-path \"bucket/x\"}";
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
        }
    })
    .await;
    let report = report(&subject_at(at)).await;
    assert_rule(
        &report,
        &rules::BYTES_MTU,
        CheckVerdict::Fail,
        "MTU",
        "ping -M do",
    );
}
