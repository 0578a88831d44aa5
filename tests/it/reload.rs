//! A reload by SIGHUP and by command: valid settings hold for new work, invalid ones change nothing.

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::child::{Process, run};
use crate::harness::client::{get, ping, read_exactly};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, eventually};

#[tokio::test]
async fn sighup_applies_to_new_connections_only() {
    let (one, two) = (Upstream::echo().await, Upstream::echo().await);
    let mut process = Process::with(&Conf::to(&[one.address])).await;
    let admin = process.admin().await;
    let mut old = TcpStream::connect(process.address()).await.unwrap();
    ping(&mut old, b"before").await;
    assert_eq!(one.accepted(), 1);

    std::fs::write(process.config(), Conf::to(&[two.address]).text()).unwrap();
    process.signal(Signal::HUP);
    eventually("reloaded", || !process.events("config.reload").is_empty()).await;
    let mut new = TcpStream::connect(process.address()).await.unwrap();
    ping(&mut new, b"after").await;
    assert_eq!((one.accepted(), two.accepted()), (1, 1));
    old.write_all(b"untouched").await.unwrap();
    assert_eq!(read_exactly(&mut old, 9).await, b"untouched");

    // Broken: nothing changes, and it is told.
    std::fs::write(process.config(), "upstream = 7\nno_such_key = [").unwrap();
    process.signal(Signal::HUP);
    eventually("refused", || {
        process
            .events("config.reload")
            .iter()
            .any(|line| line["level"] == "error")
    })
    .await;
    ping(&mut new, b"still").await;
    ping(
        &mut TcpStream::connect(process.address()).await.unwrap(),
        b"as before",
    )
    .await;
    assert_eq!(two.accepted(), 2);
    let metrics = get(admin, "/metrics").await;
    assert!(
        metrics.contains("\nentryway_config_last_reload_successful 0\n"),
        "{metrics}"
    );

    std::fs::write(process.config(), Conf::to(&[two.address]).text()).unwrap();
    process.signal(Signal::HUP);
    eventually("applied again", || {
        process.events("config.reload").len() >= 3
    })
    .await;
    let metrics = get(admin, "/metrics").await;
    assert!(
        metrics.contains("\nentryway_config_last_reload_successful 1\n"),
        "{metrics}"
    );
    drop((old, new));
    assert_eq!(process.term().await, 0);
}

#[tokio::test]
async fn the_command_tells_what_is_wrong_and_ends_with_78() {
    let echo = Upstream::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let conf =
        Conf::to(&[echo.address]).rest(&format!("admin.control = {:?}", control.to_str().unwrap()));
    let mut process = Process::with(&conf).await;
    let admin = process.admin().await.to_string();
    let (code, out, err) = run(&["reload", "--admin", &admin]).await;
    assert_eq!(code, 0, "{out}{err}");
    std::fs::write(
        process.config(),
        conf.text().replace("zone = \"none\"", "zoen = \"none\""),
    )
    .unwrap();
    let (code, out, err) = run(&["reload", "--admin", &admin]).await;
    assert_eq!(code, 78, "{out}{err}");
    assert!(err.contains("zoen") && err.contains("zone"), "{err}");
    let (code, out, _) = run(&["status", "--admin", &admin]).await;
    assert_eq!(code, 0, "{out}");
    let (code, _, err) = run(&["shutdown", "--admin", &admin]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(process.wait().await.code(), Some(0));
}
