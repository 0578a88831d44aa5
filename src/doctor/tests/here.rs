//! Stages settings, port, through, limits: what is wrong on this machine.

use super::*;

const FAIL: CheckVerdict = CheckVerdict::Fail;

#[tokio::test]
async fn the_port_is_held_by_another_program() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mock = mock_zones([127, 0, 91, 1]);
    let mut subject = subject(way_of(&mock));
    subject.listen = vec![other.local_addr().unwrap()];
    let report = report(&subject).await;
    let pid = std::process::id().to_string();
    let check = assert_rule(
        &report,
        &rules::PORT_HELD,
        FAIL,
        "datomic client access",
        &format!("kill {pid}"),
    );
    assert!(
        check.evidence.contains(&format!("(pid {pid})")),
        "{}",
        check.evidence
    );
    // Not ours, so nothing is asked through it; and that everything else works does not make it a warning.
    assert!(
        report
            .checks
            .iter()
            .any(|check| check.stage == Stage::Through && check.verdict == CheckVerdict::Skip)
    );
    assert_eq!(report.verdict(), FAIL);
}

#[tokio::test]
async fn listen_addresses_that_cannot_be_had() {
    let mut subject = subject_at(closed_port().await);
    subject.listen = vec![
        "203.0.113.1:8182".parse().unwrap(),
        "127.0.0.1:0".parse().unwrap(),
    ];
    let report = report(&subject).await;
    assert_rule(
        &report,
        &rules::PORT_NO_ADDRESS,
        FAIL,
        "another machine's",
        "ip addr",
    );
}

#[tokio::test]
async fn an_endpoint_that_is_our_own_listener() {
    let at = closed_port().await;
    let mut subject = subject(explicit(&[("localhost", at.port(), None)]));
    subject.listen = vec![at];
    let report = report(&subject).await;
    let check = assert_rule(
        &report,
        &rules::ENDPOINT_IS_LISTENER,
        FAIL,
        "localhost",
        "--listen",
    );
    assert!(
        check.evidence.contains(&at.to_string()),
        "{}",
        check.evidence
    );
}

#[tokio::test]
async fn wrong_and_odd_settings() {
    let subject = DoctorInput {
        wrong: vec!["a TCP endpoint has no path\u{1b}[2J".to_owned()],
        odd: vec!["ENTRYWAY_ENDPONT is not a setting".to_owned()],
        ..subject(explicit(&[]))
    };
    let report = report(&subject).await;
    assert_rule(
        &report,
        &rules::SETTINGS_ODD,
        CheckVerdict::Warn,
        "misspelt",
        "entryway check",
    );
    let check = assert_rule(
        &report,
        &rules::SETTINGS_WRONG,
        FAIL,
        "cannot be",
        "entryway check",
    );
    assert!(!check.evidence.contains('\u{1b}') && report.has_wrong_settings());
}

#[tokio::test]
async fn a_route_that_does_not_exist() {
    // The broadcast address is nobody's: the kernel has no route for a connection there.
    let report = report(&subject(explicit(&[("255.255.255.255", 8182, None)]))).await;
    assert_rule(
        &report,
        &rules::ROUTE_NONE,
        FAIL,
        "VPN",
        "ip route get 255.255.255.255",
    );
}

/// An instance that answers, one that does not, one that leads elsewhere, and one that knows less than we see.
#[tokio::test]
async fn through_a_running_instance() {
    let mock = mock_zones([127, 0, 92, 1]);
    let stands_in = |addresses: Vec<SocketAddr>| RunningInstance {
        pid: std::process::id(),
        addresses,
        down: Vec::new(),
        hops: Vec::new(),
        examined: true,
    };
    let with = |instance: RunningInstance| DoctorInput {
        listen: instance.addresses.clone(),
        instance: Some(instance),
        ..subject(way_of(&mock))
    };
    // Stands in for entryway: a port that answers as the system does.
    let same = mock_zones([127, 0, 93, 1]);
    let fine = report(&with(stands_in(vec![same.address("a").unwrap()]))).await;
    assert_eq!(fine.verdict(), CheckVerdict::Pass, "{}", fine.text(false));
    let line = fine
        .checks
        .iter()
        .find(|check| check.stage == Stage::Through)
        .unwrap();
    assert!(
        line.evidence.contains("mock-bucket/mock-system"),
        "{}",
        line.evidence
    );

    same.set_mode("a", ZoneMode::Fin).await.unwrap();
    let closed = report(&with(stands_in(vec![same.address("a").unwrap()]))).await;
    assert_rule(
        &closed,
        &rules::THROUGH_FAILS,
        FAIL,
        "no address is up",
        "entryway status",
    );

    same.set_mode("b", ZoneMode::OtherIdentity).await.unwrap();
    let other = report(&with(stands_in(vec![same.address("b").unwrap()]))).await;
    let check = assert_rule(
        &other,
        &rules::THROUGH_OTHER,
        FAIL,
        "another target",
        "entryway doctor without target",
    );
    assert!(
        check
            .evidence
            .contains("through it other-mock-bucket/mock-system"),
        "{}",
        check.evidence
    );

    let mut behind = stands_in(vec![same.address("c").unwrap()]);
    behind.down = vec![(mock.address("b").unwrap(), "down: timeout".to_owned())];
    let behind = report(&with(behind)).await;
    assert_rule(
        &behind,
        &rules::THROUGH_DISAGREES,
        CheckVerdict::Warn,
        "just come back",
        "endpoint probe",
    );
}

#[tokio::test]
async fn timers_that_will_hurt() {
    let mock = mock_zones([127, 0, 94, 1]);
    let mut subject = subject(way_of(&mock));
    subject.targets[0].keepalive = Duration::from_secs(350);
    subject.timers = Timers {
        max_drain: Duration::from_secs(31),
        hold: Duration::from_secs(60),
        max_connections: Some(usize::MAX),
    };
    let report = report(&subject).await;
    assert_rule(
        &report,
        &rules::LIMIT_KEEPALIVE,
        CheckVerdict::Warn,
        "350 s",
        "below 350s",
    );
    assert_rule(
        &report,
        &rules::LIMIT_DRAIN,
        CheckVerdict::Warn,
        "terminationGracePeriodSeconds",
        "--max-drain 25s",
    );
    assert_rule(
        &report,
        &rules::LIMIT_HOLD,
        CheckVerdict::Warn,
        "60 s by default",
        "hold_timeout",
    );
    assert_rule(
        &report,
        &rules::LIMIT_FILES,
        CheckVerdict::Warn,
        "ulimit -n",
        "LimitNOFILE",
    );
    assert_eq!(
        report.verdict(),
        CheckVerdict::Warn,
        "{}",
        report.text(false)
    );
    subject.targets[0].keepalive = Duration::ZERO;
    let off = host_checks::check_limits(&subject, &[]);
    assert!(
        off.iter()
            .any(|check| check.evidence.contains("keepalive is off"))
    );
}

#[tokio::test]
async fn local_ports_towards_an_address() {
    let used = |at| host_checks::check_local_ports(&[at], Some(1000)).unwrap();
    let at = loop {
        let at = server(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await;
        // The port may have been another test's, whose connections are still in TIME-WAIT.
        if used(at).evidence.starts_with("0 of") {
            break at;
        }
    };
    let mut open = Vec::new();
    for _ in 0..9 {
        open.push(TcpStream::connect(at).await.unwrap());
    }
    let check = host_checks::check_local_ports(&[at, closed_port().await], Some(10)).unwrap();
    assert_eq!(check.rule, Some("LIMIT_PORTS"));
    assert!(
        check.evidence.contains("9 of 10") && check.subject.contains(&at.to_string()),
        "{check:?}"
    );
    assert_eq!(used(at).verdict, CheckVerdict::Pass);
}

#[tokio::test]
async fn an_instance_that_has_used_its_open_files() {
    // Ten allowed, nine open once it says so; what the test itself has inherited is closed.
    let mut instance = std::process::Command::new("sh")
        .args([
            "-c",
            "exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-; ulimit -n 10; exec 3<&0 4<&0 5<&0 6<&0 7<&0 8<&0; echo open; read end",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(instance.stdout.as_mut().unwrap(), &mut said).unwrap();
    let subject = DoctorInput {
        instance: Some(RunningInstance {
            pid: instance.id(),
            addresses: Vec::new(),
            down: Vec::new(),
            hops: Vec::new(),
            examined: true,
        }),
        ..subject_at(closed_port().await)
    };
    let report = report(&subject).await;
    let check = assert_rule(
        &report,
        &rules::LIMIT_FILES_USED,
        CheckVerdict::Warn,
        "leak",
        "entryway status",
    );
    assert!(check.evidence.contains(" of 10 open"), "{}", check.evidence);
    drop(instance.stdin.take());
    instance.wait().unwrap();
}

#[tokio::test]
async fn redacted_reports_name_nobody() {
    let mock = mock_zones([127, 0, 95, 1]);
    mock.set_mode("b", ZoneMode::OtherIdentity).await.unwrap();
    mock.set_mode("c", ZoneMode::Refuse).await.unwrap();
    let mut subject = subject(way_of(&mock));
    subject.targets[0].system = Some("prod".to_owned());
    let mut report = report(&subject).await;
    redact(&mut report, &subject);
    let text = format!("{}{}", report.text(false), report.json());
    for secret in [
        "127.0.95",
        "mock-bucket",
        "mock-system",
        "describe-groups prod",
    ] {
        assert!(!text.contains(secret), "{secret}:\n{text}");
    }
    assert!(
        text.contains("address-1:") && text.contains("bucket-1 at"),
        "{text}"
    );
}
