//! Our own troubles: stopped, starved. Nobody else is to blame for them.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;

use tokio::time::Instant;

use crate::client::{ask, last, request, within};
use crate::process::Proxy;
use crate::topology::{Topology, ZONES};
use crate::{SECOND, Table};

/// The whole proxy is stopped for 10 s.
pub fn stopped(_lab: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&[]);
    let mut idle = TcpStream::connect(proxy.address).unwrap();
    ask(&mut idle, "").unwrap();
    let before = proxy.transitions();
    let probed_at = |zone: &str| proxy.zone(zone)["last_probe"]["at"].to_string();
    let first = ZONES.map(probed_at);
    proxy.process.signal("STOP");
    // A request that nobody takes, and one on an open connection.
    let address = proxy.address;
    let waiting = std::thread::spawn(move || request(address, 15 * SECOND));
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    last(10 * SECOND);
    proxy.process.signal("CONT");
    let back = Instant::now();
    let again = within(5 * SECOND, || {
        let now = ZONES.map(probed_at);
        (0..3)
            .all(|nth| now[nth] != first[nth] || first[nth].len() < 3)
            .then(|| back.elapsed())
    });
    let waited = waiting.join().unwrap();
    let woke = within(3 * SECOND, || {
        (proxy.metric("entryway_wakeups_total", &[]) == 1.0).then(|| back.elapsed())
    });
    idle.set_read_timeout(Some(5 * SECOND)).unwrap();
    let answered = ask(&mut idle, "");
    // Long enough for blame to show.
    last(3 * SECOND);
    let changes = proxy.transitions() - before;
    let after = request(proxy.address, 5 * SECOND);
    table.row(
        "the proxy stopped for 10 s",
        "probed again ≤ 2s, 0 changes, all served",
        format!(
            "probed {again:.1?}, woke {woke:.1?}, {changes} changes, waiting {:?}, idle {:?}, new {:?}",
            waited.is_ok(),
            answered.is_ok(),
            after.is_ok()
        ),
        again.is_some_and(|took| took <= 2 * SECOND)
            && woke.is_some()
            && changes == 0.0
            && waited.is_ok()
            && answered.is_ok()
            && after.is_ok(),
    );
}

/// A quarter of a core, and more work than that.
pub fn quota(_lab: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&["--probe-interval", "1s"]);
    let quota = match Quota::of(proxy.process.child.id()) {
        Ok(quota) => quota,
        Err(why) => return table.not_here("a quarter of a core", &why),
    };
    let before = proxy.transitions();
    let began = Instant::now();
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let address = proxy.address;
            std::thread::spawn(move || {
                let (mut served, mut failed) = (0, 0);
                while began.elapsed() < 10 * SECOND {
                    match request(address, 10 * SECOND) {
                        Ok(_) => served += 1,
                        Err(_) => failed += 1,
                    }
                }
                (served, failed)
            })
        })
        .collect();
    let counts = workers.into_iter().map(|one| one.join().unwrap());
    let (served, failed) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let throttled = quota.throttled();
    drop(quota);
    let states = ZONES.map(|zone| proxy.state(zone));
    let changes = proxy.transitions() - before;
    let down = proxy.metric("entryway_endpoint_transitions_total", &["to=\"down\""]);
    let stalls = proxy.metric("entryway_stalls_total", &[]);
    table.row(
        "a quarter of a core, 16 clients, 10 s",
        "0 fail, nobody down",
        format!(
            "{served} served, {failed} fail, {throttled} times throttled, {changes} changes, {down} down, {stalls} stalls, {states:?}"
        ),
        failed == 0 && down == 0.0 && throttled > 10,
    );
}

/// A process under a CPU quota, until dropped.
struct Quota {
    group: String,
    home: String,
    process: u32,
}

impl Quota {
    /// A quarter of a core, by cgroup version 1 or 2.
    fn of(process: u32) -> Result<Self, String> {
        let (home, limit) = if Path::new("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists() {
            (
                "/sys/fs/cgroup/cpu".to_owned(),
                ("cpu.cfs_quota_us", "25000"),
            )
        } else if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu");
            ("/sys/fs/cgroup".to_owned(), ("cpu.max", "25000 100000"))
        } else {
            return Err("no cgroup with a CPU controller".to_owned());
        };
        let group = format!("{home}/entryway-netns-{process}-{}", fastrand::u32(..));
        let say = |what: &str, error: std::io::Error| format!("{what}: {error}");
        std::fs::create_dir(&group).map_err(|error| say(&group, error))?;
        let quota = Self {
            group,
            home,
            process,
        };
        let write = |file: &str, text: &str| {
            std::fs::write(format!("{}/{file}", quota.group), text).map_err(|e| say(file, e))
        };
        write(limit.0, limit.1)?;
        write("cgroup.procs", &process.to_string())?;
        Ok(quota)
    }

    fn throttled(&self) -> u64 {
        let text = std::fs::read_to_string(format!("{}/cpu.stat", self.group)).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("nr_throttled"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let home = format!("{}/cgroup.procs", self.home);
        let _ = std::fs::write(home, self.process.to_string());
        let _ = std::fs::remove_dir(&self.group);
    }
}
