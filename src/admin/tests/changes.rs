use std::time::Duration;

use super::*;

#[tokio::test]
async fn changes_go_through_the_control_socket() {
    let running = start(None).await;
    for (path, code) in [
        ("/v1/endpoints/us-east-1a/drain", 200),
        ("/v1/endpoints/10.0.0.1%3A8182/ready?upstream=u", 200),
        ("/v1/endpoints/nobody/probe", 404),
        ("/v1/connections/18/close", 404),
        ("/v1/connections/x/close", 404),
        ("/v1/connections/17/close", 200),
        ("/v1/probe", 200),
        ("/v1/reload", 200),
        ("/v1/reload?dry_run=1", 422),
        ("/v1/reload?dry_run=0", 200),
        ("/v1/loglevel?level=debug", 200),
        ("/v1/loglevel?level=loud", 400),
        ("/v1/loglevel", 400),
        ("/v1/shutdown", 202),
    ] {
        let (got, answer) = running.change(path).await;
        assert_eq!(got, code, "{path} {answer}");
    }
    assert_eq!(
        running.backend.done(),
        [
            "drain None Some(\"us-east-1a\")",
            "ready Some(\"u\") Some(\"10.0.0.1:8182\")",
            "close 17",
            "probe None None",
            "reload false",
            "reload true",
            "reload false",
            "shutdown",
        ]
    );
    assert!(running.log.wants(tracing::Level::DEBUG));
    assert!(running.log.flush(Duration::from_secs(5)));
    let text = running.lines.text();
    assert!(
        text.contains("\"admin.path\":\"/v1/endpoints/us-east-1a/drain\""),
        "{text}"
    );
    assert!(text.contains("\"client.uid\":"), "{text}");
    assert_eq!(text.matches("\"event\":\"listener.up\"").count(), 3);
    // The whole of /v1/* is readable there too.
    let status = client::get(
        &HttpTarget::Unix(running.control.clone()),
        "/v1/status",
        BOUNDS,
    )
    .await
    .unwrap();
    assert_eq!(status.status, 200);
    running.trigger.fire();
    running.task.await.unwrap();
    assert!(!running.control.exists());
}

#[tokio::test]
async fn the_default_port_gives_way_and_an_asked_one_does_not() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = AdminSettings {
        bind: Bind::At(taken.local_addr().unwrap()),
        control: Some(ControlPath::Off),
        ..AdminSettings::default()
    };
    let (log, lines) = Log::memory(&LogSettings::default()).unwrap();
    let events = Events::new(log.clone());
    let listeners = open(
        &settings,
        BindOptions::default(),
        Default::default(),
        &events,
    )
    .unwrap();
    let other = listeners.admin_address().unwrap();
    assert_ne!(other, taken.local_addr().unwrap());
    assert!(listeners.control_path().is_none());
    assert!(log.flush(Duration::from_secs(5)));
    let warning = lines.text().lines().next().unwrap().to_owned();
    assert!(
        warning.contains("\"level\":\"warn\"") && warning.contains(&other.to_string()),
        "{warning}"
    );
    let asked = BindOptions {
        bind: true,
        ..BindOptions::default()
    };
    let error = open(&settings, asked, Default::default(), &events).unwrap_err();
    assert_eq!(
        (error.what, error.error.kind()),
        ("admin", std::io::ErrorKind::AddrInUse)
    );
}

/// Another user on the control socket. Runs as root only, because nobody else can become somebody else; `rules` has
/// the same rule without processes.
#[tokio::test]
async fn another_user_is_refused_at_the_control_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    if control::own_uid() != 0
        || std::process::Command::new("curl")
            .arg("--version")
            .output()
            .is_err()
    {
        return;
    }
    let running = start(None).await;
    // Open to all, as an unwise operator might: the peer check alone has to hold.
    for (path, mode) in [
        (running.control.parent().unwrap(), 0o755),
        (running.control.as_path(), 0o666),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let nobody = tokio::process::Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "POST",
            "--unix-socket",
        ])
        .arg(&running.control)
        .arg("http://localhost/v1/shutdown")
        .uid(65534)
        .gid(65534)
        .output()
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&nobody.stdout), "403", "{nobody:?}");
    assert!(running.backend.done().is_empty());
}
