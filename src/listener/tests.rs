use super::*;
use crate::connection::WhenAllDown;
use crate::relay::TcpSettings;
use crate::sys::congestion::LoopbackCongestion;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

fn sockets() -> SocketSettings {
    SocketSettings {
        tcp: TcpSettings::default().options(),
        loopback_congestion: LoopbackCongestion::default(),
    }
}

fn settings(bind: &[&str]) -> ListenerSettings {
    ListenerSettings {
        bind: bind.iter().map(|text| (*text).to_owned()).collect(),
        ..ListenerSettings::default()
    }
}

#[test]
fn bound_is_accepting() {
    let bound = bind(&settings(&["127.0.0.1:0", "127.0.0.2:0"]), true, &sockets()).unwrap();
    assert_eq!(bound.addresses().len(), 2);
    for address in bound.addresses() {
        TcpStream::connect(address).unwrap();
    }
}

#[test]
fn a_port_in_use_names_the_holder() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let error = bind(&settings(&[&address.to_string()]), true, &sockets()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("listen on {address}: in use by ")),
        "{text}"
    );
    assert!(
        text.ends_with(&format!("(pid {})", std::process::id())),
        "{text}"
    );
}

#[test]
fn a_missing_default_is_a_warning_and_one_asked_for_an_error() {
    // A documentation address: no machine has it.
    let both = settings(&["127.0.0.1:0", "[2001:db8::1]:0"]);
    let both = ListenerSettings {
        allow_remote: true,
        ..both
    };
    let bound = bind(&both, false, &sockets()).unwrap();
    assert_eq!(bound.missing.len(), 1);
    assert_eq!(bound.missing[0].0, "[2001:db8::1]:0".parse().unwrap());
    assert!(matches!(
        bind(&both, true, &sockets()),
        Err(BindError::Other { .. })
    ));
}

#[test]
fn bad_addresses() {
    let error = |bind_to: &[&str]| {
        bind(&settings(bind_to), true, &sockets())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(&["localhost"]),
        "listen address `localhost` is not IP:PORT"
    );
    assert_eq!(error(&[]), "no listen address");
    assert!(error(&["0.0.0.0:0"]).contains("allow_remote"));
}

#[test]
fn settings_read_and_unknown_keys_do_not() {
    let read: ListenerSettings =
        toml::from_str("when_all_down = 'refuse'\nhold_timeout = '30s'").unwrap();
    assert_eq!(read.when_all_down, WhenAllDown::Refuse);
    assert_eq!(read.policy().hold_timeout, Duration::from_secs(30));
    assert!(toml::from_str::<ListenerSettings>("hold_timout = '30s'").is_err());
}

/// Options that a reload changes hold for the clients that come after it, on sockets that are bound already.
#[test]
fn options_of_running_sockets_change() {
    // An address that other machines could reach, as far as the options are concerned; only this machine has it.
    let Ok(listening) = TcpListener::bind("[::ffff:127.0.0.1]:0") else {
        println!("not run: no IPv6 here");
        return;
    };
    let port = listening.local_addr().unwrap().port();
    let control = SocketControl {
        settings: Arc::new(ArcSwap::from_pointee(sockets())),
        open: OpenSockets::of(vec![listening]),
    };
    let accepted = || {
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let listening = control.open.get();
        let (stream, _) = listening[0].accept().unwrap();
        let stream = socket2::SockRef::from(&stream);
        stream.tcp_keepalive_time().unwrap()
    };
    let changed = TcpOptions {
        keepalive: Some(Duration::from_secs(33)),
        ..sockets().tcp
    };
    assert_ne!(accepted(), Duration::from_secs(33));
    control.set_tcp(changed);
    assert_eq!(accepted(), Duration::from_secs(33));
    // Sockets that are bound again get theirs from here.
    assert_eq!(control.settings.load().tcp, changed);
}
