//! Every event there is: name, levels, fields, and which values people are shown.
//!
//! The `event!` macro refuses at compile time an event or a level that is not listed here; a debug build refuses a field
//! that is not. The reference page is made from this table.

use tracing::{Level, Metadata};

use super::close_reason::Reason;
use super::record::{Event, Value};

/// One event of the table.
#[derive(Debug)]
pub struct EventKind {
    pub name: &'static str,
    pub levels: &'static [Level],
    pub about: &'static str,
    /// In the order of the reference page.
    pub fields: &'static [&'static str],
    /// What the text format shows, as `(label, field)`.
    people: &'static [(&'static str, &'static str)],
}

use Level as L;

macro_rules! kinds {
    ($($name:literal [$($level:ident)+] $about:literal { $($field:literal)* } ($($label:literal $shown:literal),*);)*) => {
        /// All of them.
        pub const ALL: &[EventKind] = &[$(EventKind {
            name: $name,
            levels: &[$(L::$level),+],
            about: $about,
            fields: &[$($field),*],
            people: &[$(($label, $shown)),*],
        }),*];
    };
}

kinds! {
    "start" [INFO WARN DEBUG] "The program starts; notes and warnings about its settings and its own zone."
        {"version" "pid" "warning" "upstream" "note" "source" "error" "zone" "zone_id" "endpoint" "upstreams" "hint"}
        ("" "warning", "" "note", "" "error", "zone" "zone", "" "hint");
    "sandbox" [INFO] "Whether this process is restricted to what its settings name, and if not, why."
        {"on" "reason" "landlock" "files" "programs"} ("" "reason");
    "stop" [INFO] "The program ends." {"cut"} ("connections cut" "cut");
    "listener.up" [INFO WARN] "A socket accepts; a warning where an address is left out."
        {"name" "address" "upstream" "remote" "error" "hint"} ("" "name", "" "address", "" "error", "" "hint");
    "listener.down" [INFO WARN ERROR] "A listener's sockets are closed."
        {"name" "error" "hint"} ("" "name", "" "error", "" "hint");
    "conn.open" [DEBUG] "A connection was accepted."
        {"listener" "client.address" "client.port" "conn.id"} ("connection" "conn.id", "from" "client.address");
    "conn.close" [INFO] "A connection ended: exactly one per accepted connection."
        {"listener" "upstream" "endpoint" "zone" "client.address" "client.port" "server.address" "server.port"
         "conn.id" "conn.reason" "conn.closed_by" "conn.duration_ms" "conn.idle_ms" "conn.attempts" "conn.hedged"
         "conn.parked_ms" "connect.duration_ms" "bytes.upload" "bytes.download" "conn.lane" "http.requests"
         "http.phase" "http.dropped" "tls.identity" "hint"}
        ("" "conn.reason", "" "endpoint", "connection" "conn.id", "after ms" "conn.duration_ms", "" "hint");
    "connect.fail" [DEBUG] "An attempt to connect failed."
        {"upstream" "endpoint" "zone" "server.address" "server.port" "connect.result" "connect.duration_ms"}
        ("" "endpoint", "" "server.address");
    "endpoint.state" [INFO WARN] "An address changed its state; a warning when it is marked down."
        {"upstream" "endpoint" "zone" "server.address" "server.port" "from" "to" "reason" "detail" "changes"
         "window_s" "hint"}
        ("" "endpoint", "" "server.address", "from" "from", "to" "to", "reason" "reason", "" "hint");
    "fault.set" [INFO WARN] "A fault is set; a warning where it cannot do what was meant."
        {"listener" "toxic" "type" "stream" "zone"} ("" "listener", "" "toxic", "" "type", "" "stream", "" "zone");
    "fault.clear" [INFO WARN] "A fault is removed; a warning where the dead-man switch removes all, or a listener stays closed."
        {"listener" "toxic" "type" "stream" "zone" "error"}
        ("" "listener", "" "toxic", "" "type", "" "stream", "" "zone", "" "error");
    "upstream.failover" [INFO] "New connections go to a farther zone." {"upstream" "from" "to" "reason"}
        ("" "upstream", "from" "from", "to" "to");
    "upstream.failback" [INFO] "New connections go to a nearer zone again." {"upstream" "from" "to" "reason"}
        ("" "upstream", "from" "from", "to" "to");
    "upstream.unreachable" [WARN] "No address of an upstream can be reached: within 2 s, then every 30 s."
        {"upstream" "error" "lasting_ms" "hint"} ("" "upstream", "" "error", "" "hint");
    "identity.mismatch" [WARN] "An address answers as another Datomic system, or two systems answer."
        {"upstream" "endpoint" "zone" "server.address" "server.port" "identity" "identity.other" "hint"}
        ("" "upstream", "" "endpoint", "expected" "identity", "got" "identity.other");
    "dns.change" [INFO WARN] "The addresses of a name changed; a warning when it has more than are kept."
        {"upstream" "endpoint" "name" "added" "departed" "removed" "kept" "left_out"}
        ("" "name", "added" "added", "departed" "departed", "removed" "removed");
    "dns.error" [WARN] "A lookup failed; known addresses are kept."
        {"upstream" "name" "error" "kept" "hint"} ("" "name", "" "error");
    "probe.fail" [DEBUG] "A probe failed."
        {"upstream" "endpoint" "zone" "server.address" "server.port" "result" "detail" "probe.duration_ms"}
        ("" "endpoint", "" "server.address", "" "result", "" "detail");
    "config.reload" [INFO WARN ERROR] "Settings were loaded again, or refused."
        {"upstream" "hop" "error" "changed" "restart_needed" "warning" "revoked_connections"}
        ("" "upstream", "" "hop", "" "error", "changed" "changed", "needs a restart" "restart_needed", "" "warning");
    "upgrade" [INFO WARN] "Another process has taken over, this one has taken over, or an upgrade was given up."
        {"pid" "generation" "changed" "error"} ("pid" "pid", "generation" "generation", "settings that differ" "changed", "" "error");
    "drain.start" [INFO] "The shutdown begins." {"connections"} ("connections" "connections");
    "drain.end" [INFO] "The shutdown is over." {"cut" "duration_ms"} ("connections cut" "cut", "after ms" "duration_ms");
    "splice.fallback" [INFO] "Bytes are copied through user space because a pipe could not be had."
        {"reason"} ("reason" "reason");
    "stall" [WARN DEBUG] "A direction made no progress although it could have (a bug), or the event loop was late."
        {"upstream" "picture" "late_ms"} ("" "picture", "late by ms" "late_ms");
    "resource" [WARN] "Something is scarce: descriptors, ports, connections, log throughput. At most one line a second."
        {"listener" "upstream" "error" "address" "log.dropped" "connections" "limit" "hint"}
        ("" "listener", "" "error", "" "address", "lines" "log.dropped", "" "hint");
    "gateway.handshake" [DEBUG INFO] "A TLS client of the gateway was accepted, or refused and why."
        {"result" "error" "tls.identity" "client.address" "client.port"}
        ("" "result", "" "error", "" "tls.identity", "" "client.address");
    "hop.up" [INFO] "A hop works." {"upstream" "hop"} ("" "hop");
    "hop.down" [WARN ERROR] "A hop does not work, and why." {"upstream" "hop" "error"} ("" "hop", "" "error");
    "hop.restart" [INFO] "A supervised command is started again." {"upstream" "hop" "reason"} ("" "hop", "" "reason");
    "wake" [INFO] "The machine slept or this process was stopped: everything is resolved and probed again; a second line gives the result." {"why"} ("" "why");
    "network.change" [INFO] "The addresses or the default route of this machine have changed: everything is resolved and probed again." {} ();
    "admin.change" [INFO WARN] "A change was asked for through the admin API."
        {"admin.path" "admin.query" "client.address" "client.port" "client.uid" "http.status" "error"}
        ("" "admin.path", "" "admin.query", "" "error");
    "library" [ERROR WARN INFO DEBUG TRACE] "What a library logs; `log.libraries` decides, at most one line a second each."
        {"library" "library.target" "conn.id"} ("" "library.target");
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn rank(level: Level) -> u8 {
    match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }
}

/// Fails to compile where an event or its level is not listed.
pub const fn assert_listed(name: &str, level: Level) {
    let mut index = 0;
    while index < ALL.len() {
        if same(ALL[index].name, name) {
            let levels = ALL[index].levels;
            let mut at = 0;
            while at < levels.len() {
                if rank(levels[at]) == rank(level) {
                    return;
                }
                at += 1;
            }
            panic!("events::table does not list this level of the event");
        }
        index += 1;
    }
    panic!("events::table does not list this event");
}

/// Every field of our own call sites is listed.
pub(super) fn assert_fields(metadata: &Metadata<'_>) {
    let kind = ALL.iter().find(|kind| kind.name == metadata.name());
    for field in metadata.fields() {
        let listed = |kind: &EventKind| kind.fields.contains(&field.name());
        assert!(
            field.name() == "message" || kind.is_some_and(listed),
            "events::table does not list the field {} of {}",
            field.name(),
            metadata.name()
        );
    }
}

/// Events about single connections and probes, which have filters of their own.
pub(super) fn is_about_traffic(name: &str) -> bool {
    name.starts_with("conn.") || name.starts_with("probe.")
}

/// Whether `log.connections = "errors"` leaves out connections that end so.
pub(super) fn is_expected(code: &str) -> bool {
    Reason::ALL
        .iter()
        .any(|reason| reason.code() == code && reason.is_expected())
}

/// What people are shown of an event, each value with its label.
pub(super) fn people(event: &Event) -> Vec<(&'static str, &Value)> {
    let Some(kind) = ALL.iter().find(|kind| kind.name == event.name) else {
        return Vec::new();
    };
    kind.people
        .iter()
        .filter_map(|(label, field)| Some((*label, event.field(field)?)))
        .collect()
}

/// What a start says in the ordinary course: people are shown the line that names the listening address instead.
pub(super) fn is_start_noise(event: &Event) -> bool {
    let is = |field, value| event.text(field) == Some(value);
    event.level >= Level::INFO
        && match event.name {
            "start" | "sandbox" | "listener.up" => true,
            "endpoint.state" => is("from", "unknown") && is("to", "up"),
            "dns.change" => event.field("departed").is_none() && event.field("removed").is_none(),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::events::record::level_name;
    use crate::guide::check_generated;

    #[test]
    fn names_are_unique_and_people_are_shown_listed_fields() {
        for (index, kind) in ALL.iter().enumerate() {
            assert!(
                ALL[..index].iter().all(|other| other.name != kind.name),
                "{}",
                kind.name
            );
            for (_, field) in kind.people {
                assert!(kind.fields.contains(field), "{} {field}", kind.name);
            }
        }
    }

    #[test]
    fn the_reference_page_lists_every_event() {
        let mut page = String::new();
        for kind in ALL {
            let levels: Vec<&str> = kind.levels.iter().map(|level| level_name(*level)).collect();
            let fields: Vec<String> = kind
                .fields
                .iter()
                .map(|field| format!("`{field}`"))
                .collect();
            let _ = writeln!(
                page,
                "`{}` ({})\n: {}",
                kind.name,
                levels.join(", "),
                kind.about
            );
            let fields = match fields.is_empty() {
                true => "No fields of its own.".to_owned(),
                false => format!("Fields: {}.", fields.join(" ")),
            };
            let _ = writeln!(page, "{}", crate::guide::wrap(&fields, "  "));
        }
        check_generated("reference-events.md", "events", &page);
    }

    #[test]
    fn the_reference_page_explains_every_field_of_a_closed_connection() {
        let page = include_str!("../guide/reference-events.md");
        let (_, section) = page.split_once("## The fields of `conn.close`").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let explained: std::collections::BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("- "))
            .chain(section.split(". ").skip(1))
            .filter_map(|line| line.split_once(':'))
            .flat_map(|(names, _)| names.split(", "))
            .filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'))
            .collect();
        let kind = ALL.iter().find(|kind| kind.name == "conn.close").unwrap();
        for field in kind.fields {
            assert!(explained.contains(field), "{field}: {explained:?}");
        }
    }

    #[test]
    fn the_reference_page_lists_every_close_reason() {
        let mut page = String::new();
        for reason in Reason::ALL {
            let idle = match reason {
                Reason::UpstreamRst => Duration::from_secs(350),
                _ => Duration::from_secs(60),
            };
            let expected = if reason.is_expected() {
                ", expected"
            } else {
                ""
            };
            let by = reason.closed_by().as_str();
            let _ = writeln!(
                page,
                "`{}` (closed by {by}{expected})\n: {}",
                reason.code(),
                reason.about().trim()
            );
            if let Some(hint) = reason.hint(idle) {
                page.push_str(&crate::guide::wrap(&format!("Hint: {hint}."), "  "));
            }
            page.push('\n');
        }
        check_generated("reference-events.md", "reasons", &page);
    }
}
