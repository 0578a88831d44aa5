//! `HOST:PORT?zone=Z&name=N`, and what a host and a name may look like. Pure text: nothing is resolved.

use std::net::{IpAddr, Ipv6Addr};

use super::report::{Problem, closest};
use super::tree::{Node, Place, Value};

/// Splits the short form of an endpoint into the table that a file would hold.
pub(super) fn from_text(text: &str, place: &Place) -> Result<Node, Problem> {
    let (address, query) = text.split_once('?').unwrap_or((text, ""));
    let mut node = Node::table(place.clone());
    node.set("address", Node::text(place.clone(), address));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "zone" | "name" if !value.is_empty() => node.set(key, Node::text(place.clone(), value)),
            "zone" | "name" => {
                return Err(Problem::new(
                    format!("`{key}=` in `{}` has no value", text.escape_debug()),
                    place.clone(),
                ));
            }
            _ => {
                let title = format!(
                    "`{}` in `{}` is not known",
                    key.escape_debug(),
                    text.escape_debug()
                );
                let known = closest(key, ["zone", "name"]).map_or_else(
                    || "an endpoint is HOST:PORT, then ?zone=Z&name=N where wanted".to_owned(),
                    |close| format!("did you mean `{close}`?"),
                );
                return Err(Problem::new(title, place.clone()).help(known));
            }
        }
    }
    Ok(node)
}

/// Turns endpoints that were written in the short form, or alone, into a list of tables.
pub(super) fn normalise(upstream: &mut Node, problems: &mut Vec<Problem>) {
    let Some(entry) = upstream
        .entries_mut()
        .and_then(|table| table.get_mut("endpoint"))
    else {
        return;
    };
    let place = entry.node.place.clone();
    let items = entry.node.items().to_vec();
    let tables = items.into_iter().map(|item| match item.as_text() {
        Some(text) => from_text(text, &item.place).unwrap_or_else(|problem| {
            problems.push(problem);
            Node {
                place: item.place.clone(),
                value: Value::Gone,
            }
        }),
        None => item,
    });
    entry.node = Node {
        place,
        value: Value::List(tables.collect()),
    };
}

/// Splits `HOST:PORT` and checks both. The host comes back without brackets.
pub(super) fn split(text: &str) -> Result<(String, u16), String> {
    let shown = text.escape_debug();
    if text.contains("://") {
        return Err(format!("`{shown}` is a URL; an endpoint is HOST:PORT"));
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
        return Err(format!(
            "`{shown}` is not HOST:PORT, such as {}:8182",
            placeholder(text)
        ));
    };
    let port = match port.parse::<u16>() {
        Ok(0) => return Err(format!("`{shown}`: port 0 cannot be connected to")),
        Ok(port) => port,
        Err(_) => {
            return Err(format!(
                "`{shown}`: `{}` is not a port",
                port.escape_debug()
            ));
        }
    };
    host_of(host).map(|host| (host, port))
}

/// What was typed, where that could be a host.
fn placeholder(text: &str) -> &str {
    if check_host(text).is_ok() {
        text
    } else {
        "HOST"
    }
}

/// Splits `NAME` or `NAME:PORT` and checks both.
pub(super) fn split_name(text: &str) -> Result<(String, Option<u16>), String> {
    match text.contains(':') {
        true => split(text).map(|(host, port)| (host, Some(port))),
        false => host_of(text).map(|host| (host, None)),
    }
}

fn host_of(host: &str) -> Result<String, String> {
    if let Some(inner) = host.strip_prefix('[') {
        let ip = inner
            .strip_suffix(']')
            .and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return ip.map(|ip| ip.to_string()).ok_or_else(|| {
            format!(
                "`{}` is not an IPv6 address in brackets",
                host.escape_debug()
            )
        });
    }
    if host.contains(':') {
        return Err(format!(
            "`{}`: an IPv6 address stands in brackets, such as [::1]:8182",
            host.escape_debug()
        ));
    }
    if host.parse::<IpAddr>().is_ok() {
        return Ok(host.to_owned());
    }
    check_host(host).map(|()| host.to_owned())
}

/// Whether DNS could know such a name.
fn check_host(host: &str) -> Result<(), String> {
    let shown = host.escape_debug();
    let name = host.strip_suffix('.').unwrap_or(host);
    if !name.is_ascii() {
        return Err(format!(
            "`{shown}` is not ASCII; write the name in its xn-- form"
        ));
    }
    if name.is_empty() || name.len() > 253 {
        return Err(format!(
            "`{shown}` cannot be a host name: it has {} characters",
            name.len()
        ));
    }
    let digits = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    if name.rsplit('.').next().is_some_and(digits) {
        return Err(format!(
            "`{shown}` is neither an IP address nor a host name"
        ));
    }
    for label in name.split('.') {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let edge = label.starts_with('-') || label.ends_with('-');
        if label.is_empty() || label.len() > 63 || edge || !label.bytes().all(fine) {
            let why = match label {
                "" => "nothing stands between two dots".to_owned(),
                _ => format!("`{}` cannot be a part of one", label.escape_debug()),
            };
            return Err(format!("`{shown}` cannot be a host name: {why}"));
        }
    }
    Ok(())
}

/// Whether a listener, an upstream, an endpoint or a zone can be called so: the name becomes a metric label, a part of
/// a path and a word of a command line.
pub(super) fn check_label(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_alphanumeric() || "._-:[]".contains(c);
    match name.chars().find(|c| !fine(*c)) {
        Some(c) => Err(format!(
            "`{}` cannot be a name: `{}` is not allowed in one",
            name.escape_debug(),
            c.escape_debug()
        )),
        None if name.is_empty() => Err("a name cannot be empty".to_owned()),
        None if name.len() > 253 => Err("a name cannot be longer than 253 bytes".to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        let fine =
            |text: &str, host: &str, port| assert_eq!(split(text), Ok((host.to_owned(), port)));
        fine(
            "entry.prod.us-east-1.datomic.net:8182",
            "entry.prod.us-east-1.datomic.net",
            8182,
        );
        fine("10.0.1.5:8182", "10.0.1.5", 8182);
        fine("[::1]:8182", "::1", 8182);
        fine("localhost:1", "localhost", 1);
        fine("_a.b.:80", "_a.b.", 80);
        for text in [
            "",
            ":8182",
            "host",
            "host:",
            "host:0",
            "host:99999",
            "host:x",
            "a b:1",
            "-a:1",
            "a..b:1",
            "::1:8182",
            "[::1:8182",
            "[x]:1",
            "1.2.3:1",
            "1.2.3.4.5:1",
            "http://h:1",
            "bücher.de:1",
            "a/b:1",
        ] {
            assert!(split(text).is_err(), "{text}");
        }
        assert_eq!(split_name("vpce-1.x"), Ok(("vpce-1.x".to_owned(), None)));
        assert_eq!(
            split_name("vpce-1.x:80"),
            Ok(("vpce-1.x".to_owned(), Some(80)))
        );
        assert!(split_name("vpce 1").is_err());
    }
}
