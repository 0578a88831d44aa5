//! The settings file of a test: what it says, over defaults that suit tests (port 0, no zone, no probes).

use std::fmt::Write;

/// A settings file in the making; lines are TOML with dotted keys.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    endpoints: Vec<String>,
    listener: Vec<String>,
    upstream: Vec<String>,
    rest: Vec<String>,
    tail: String,
}

impl Conf {
    /// One listener in front of these endpoints: `HOST:PORT` with `?zone=Z&name=N` where wanted.
    pub fn to<T: ToString>(endpoints: &[T]) -> Self {
        Self {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    /// A line in the upstream's table.
    pub fn upstream(mut self, line: &str) -> Self {
        self.upstream.push(line.to_owned());
        self
    }

    /// A line in the listener's table.
    pub fn listener(mut self, line: &str) -> Self {
        self.listener.push(line.to_owned());
        self
    }

    /// A line outside all tables.
    pub fn rest(mut self, line: &str) -> Self {
        self.rest.push(line.to_owned());
        self
    }

    /// More tables, after all others.
    #[cfg(all(feature = "faults", feature = "load"))]
    pub fn tail(mut self, tables: &str) -> Self {
        self.tail.push_str(tables);
        self
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let top = [
            r#"admin.bind = "127.0.0.1:0""#,
            r#"admin.control = "off""#,
            r#"log.level = "debug""#,
            r#"log.format = "json""#,
            "runtime.workers = 2",
        ];
        table(&mut text, "", &self.rest, &top);
        table(
            &mut text,
            "[[listener]]",
            &self.listener,
            &[r#"bind = ["127.0.0.1:0"]"#],
        );
        table(
            &mut text,
            "[[upstream]]",
            &self.upstream,
            &[r#"zone = "none""#, r#"health.kind = "off""#],
        );
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            let (address, more) = endpoint.split_once('?').unwrap_or((endpoint, ""));
            writeln!(text, "[[upstream.endpoint]]\naddress = \"{address}\"").unwrap();
            for (key, value) in more.split('&').filter_map(|pair| pair.split_once('=')) {
                writeln!(text, "{key} = \"{value}\"").unwrap();
            }
            if !more.contains("name=") {
                writeln!(text, "name = \"e{place}\"").unwrap();
            }
        }
        text.push_str(&self.tail);
        text
    }
}

/// A table's lines, and the defaults whose keys they do not set.
fn table(text: &mut String, head: &str, lines: &[String], defaults: &[&str]) {
    writeln!(text, "{head}").unwrap();
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    for default in defaults {
        if !lines.iter().any(|line| key(line) == key(default)) {
            writeln!(text, "{default}").unwrap();
        }
    }
    for line in lines {
        writeln!(text, "{line}").unwrap();
    }
}
