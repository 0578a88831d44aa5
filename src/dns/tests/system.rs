//! What the system says about names: its files, literal names, and what `doctor` sees of the servers.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::fake::{A, FakeDns, Reply as Fake};
use super::{NAME, Rig, bad, good, ips, settings, spec};
use crate::dns::ask::{Ask as _, Configured};
use crate::dns::{DnsSettings, ResolverKind, Responder, SystemFiles, lookup};
use crate::upstream::input::{AnswerSource, LookupError};

#[tokio::test]
async fn literals_hosts_and_localhost_ask_nobody() {
    let server = FakeDns::start().await;
    let names = ["10.9.8.7", "[fd00::7]", "localhost"];
    let mut rig = Rig::start(settings(&server), &names.map(|name| spec(name, false)));
    let mut got: Vec<(String, Vec<IpAddr>)> = Vec::new();
    for _ in names {
        let answer = rig.next().await;
        got.push((answer.name, answer.result.unwrap().ips));
    }
    got.sort();
    assert_eq!(
        got,
        [
            ("10.9.8.7".to_owned(), ips(&["10.9.8.7"])),
            ("fd00::7".to_owned(), ips(&["fd00::7"])),
            ("localhost".to_owned(), ips(&["127.0.0.1", "::1"])),
        ]
    );
    assert_eq!(server.asked("localhost", A), 0);
}

/// The system's files: none at first (nothing to ask), then a hosts file, each seen without a restart.
#[tokio::test]
async fn changes_of_the_systems_files_are_picked_up() {
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    let mut rig = Rig::start(DnsSettings::default(), &[spec(NAME, false)]);
    let LookupError::NoResolver(why) = bad(rig.next().await.result) else {
        panic!("there is no resolver");
    };
    assert!(why.contains("resolv.conf"), "{why}");
    write(&rig._folder.path().join("hosts"), "10.3.2.1 entry.test\n");
    let found = loop {
        if let Ok(addresses) = rig.next().await.result {
            break addresses;
        }
    };
    assert_eq!(
        (found.ips, found.source),
        (ips(&["10.3.2.1"]), AnswerSource::Hosts)
    );
    write(&rig._folder.path().join("hosts"), "10.3.2.22 entry.test\n");
    assert_eq!(rig.addresses().await, ips(&["10.3.2.22"]));
}

#[tokio::test]
async fn resolv_conf_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let files = SystemFiles {
        resolv_conf: folder.path().join("resolv.conf"),
        hosts: folder.path().join("hosts"),
    };
    let resolver = Configured::new(
        DnsSettings::default(),
        files.clone(),
        crate::interference::Interference::default(),
        crate::dns::ask::unbounded(),
    );
    let servers = || -> Vec<String> {
        let config = resolver.config();
        let servers = config.servers.as_ref().unwrap().iter();
        servers.map(|server| server.addr.to_string()).collect()
    };
    assert_eq!(servers(), ["127.0.0.1:53"]);
    assert!(!resolver.refresh().await);
    std::fs::write(
        &files.resolv_conf,
        "search a.test b..test\nnameserver 10.0.0.2\n",
    )
    .unwrap();
    assert!(resolver.refresh().await);
    assert_eq!(servers(), ["10.0.0.2:53"]);
    assert_eq!(resolver.config().search, ["a.test"]);
    let [skipped] = &resolver.skipped()[..] else {
        panic!("one line is skipped");
    };
    assert!(
        skipped.contains("resolv.conf: line 1: `b..test`"),
        "{skipped}"
    );
}

/// Names of the hosts file and literals are taken as they are; what the system's resolver says falls under the rule on
/// local addresses.
#[tokio::test]
async fn the_systems_resolver_answers_where_it_is_set() {
    let system = DnsSettings {
        resolver: ResolverKind::System,
        ..DnsSettings::default()
    };
    // A numeric name that `Hosts` does not take for a literal, but getaddrinfo does.
    let mut rig = Rig::start(system.clone(), &[spec("167838211", false)]);
    let found = rig.next().await.result.unwrap();
    assert_eq!(
        (found.ips, found.source),
        (ips(&["10.1.2.3"]), AnswerSource::Dns)
    );
    assert_eq!(found.ttl, Duration::from_secs(10));
    let mut rig = Rig::start(system.clone(), &[spec("2130706433", false)]);
    assert_eq!(
        bad(rig.next().await.result),
        LookupError::OnlyRefused(ips(&["127.0.0.1"]))
    );
    let report = lookup::lookup_with(&system, "167838211", &SystemFiles::default()).await;
    assert_eq!(report.ips(), ips(&["10.1.2.3"]));
    assert_eq!(report.servers[0].server, Responder::System);
}

#[tokio::test]
async fn doctor_sees_what_each_server_says() {
    let (bad_one, good_one) = (FakeDns::start().await, FakeDns::start().await);
    bad_one.set_both(NAME, Fake::Refused);
    good_one.set_both(NAME, Fake::Truncated(Box::new(good())));
    let folder = tempfile::tempdir().unwrap();
    let files = SystemFiles {
        resolv_conf: folder.path().join("resolv.conf"),
        hosts: folder.path().join("hosts"),
    };
    let settings = DnsSettings {
        servers: vec![bad_one.addr(), good_one.addr()],
        timeout: Duration::from_millis(400),
        ..DnsSettings::default()
    };
    let report = lookup::lookup_with(&settings, "Entry.test.", &files).await;
    assert_eq!(report.host, NAME);
    assert_eq!(report.ips(), ips(&["10.0.1.5", "fd00::5"]));
    let [first, second] = &report.servers[..] else {
        panic!("two servers");
    };
    assert_eq!(first.server, Responder::Server(bad_one.addr()));
    assert_eq!(first.replies[0].1.rcode, Some("REFUSED"));
    assert_eq!(
        (second.replies[0].1.rcode, second.replies[0].1.tcp),
        (Some("NOERROR"), true)
    );

    std::fs::write(
        &files.resolv_conf,
        "search none.test corp.test\nnameserver 10.0.0.2\n",
    )
    .unwrap();
    good_one.set_both("short.corp.test", good());
    let settings = DnsSettings {
        servers: vec![good_one.addr()],
        ..settings
    };
    let report = lookup::lookup_with(&settings, "short", &files).await;
    assert!(report.ips().is_empty());
    assert_eq!(report.search.unwrap().0, "short.corp.test");
}
