//! What a Datomic entry point answers: status 200 and one EDN map with a string at `:s3-auth-path`.
//!
//! The Content-Type is not looked at (real ones differ), everything else is: a load balancer's page, another HTTP
//! server on the port, or API Gateway must not pass for an entry point.

use clojure_reader::edn::{self, Edn};

use super::failure::excerpt;
use super::http::{Response, bad_response};
use crate::upstream::identity::SystemId;
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::ProbeKind;

/// What an answer to `GET /` says.
pub(super) fn evaluate(response: &Response) -> ProbeOutcome {
    if !response.is_wanted(ProbeKind::Datomic) {
        return response.wrong_status();
    }
    if let Some(encoding) = &response.encoding {
        return bad_response(
            "encoded",
            format!("content-encoding {encoding}, not asked for"),
        );
    }
    if response.is_html() {
        return bad_response("html", excerpt(&response.body));
    }
    if !response.whole {
        return bad_response("too_long", "the body is longer than an entry point's");
    }
    match read(&response.body) {
        Ok(identity) => ProbeOutcome::Success {
            identity: Some(identity),
        },
        Err((code, why)) => {
            let seen = excerpt(&response.body);
            bad_response(
                code,
                if why.is_empty() {
                    seen
                } else {
                    format!("{why}: {seen}")
                },
            )
        }
    }
}

fn read(body: &[u8]) -> Result<SystemId, (&'static str, String)> {
    let text = std::str::from_utf8(body).map_err(|_| ("bad_edn", "not UTF-8".to_owned()))?;
    let mut forms = Forms { rest: text };
    if !forms.at_map() {
        return match forms.skip() {
            Ok(()) if !forms.is_empty() => Err(("bad_edn", "more than one value".to_owned())),
            Ok(()) => Err(("no_auth_path", "not a map".to_owned())),
            Err(why) => Err(("bad_edn", why)),
        };
    }
    let found = forms
        .value_of(":s3-auth-path")
        .map_err(|why| ("bad_edn", why))?;
    if !forms.is_empty() {
        return Err(("bad_edn", "more than one value".to_owned()));
    }
    let Some(value) = found else {
        return Err(("no_auth_path", "no :s3-auth-path".to_owned()));
    };
    match &edn::read_string(value) {
        Ok(Edn::Str(path)) if !path.is_empty() => Ok(SystemId::new(path)),
        _ => Err(("no_auth_path", ":s3-auth-path is not a string".to_owned())),
    }
}

/// Walks over EDN forms. What is skipped need not be understood, only delimited: numbers, characters and tags of any
/// kind stand beside the one value that is read.
struct Forms<'a> {
    rest: &'a str,
}

/// Collections inside each other at most.
const MAX_DEPTH: usize = 64;

// === impl Forms ===

impl<'a> Forms<'a> {
    /// White space, commas, comments and discarded forms.
    fn skip_blank(&mut self, depth: usize) -> Result<(), String> {
        loop {
            self.rest = self
                .rest
                .trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if self.rest.starts_with(';') {
                self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
            } else if let Some(rest) = self.rest.strip_prefix("#_") {
                self.rest = rest;
                self.skip_form(depth + 1)?;
            } else {
                return Ok(());
            }
        }
    }

    fn is_empty(&mut self) -> bool {
        self.skip_blank(0).is_ok() && self.rest.is_empty()
    }

    /// Whether a map begins here; enters it.
    fn at_map(&mut self) -> bool {
        let is_map = self.skip_blank(0).is_ok() && self.rest.starts_with('{');
        if is_map {
            self.rest = &self.rest[1..];
        }
        is_map
    }

    /// Within a map that was entered: goes to its end, and gives the text of this key's value.
    fn value_of(&mut self, wanted: &str) -> Result<Option<&'a str>, String> {
        let mut found = None;
        loop {
            self.skip_blank(0)?;
            if let Some(rest) = self.rest.strip_prefix('}') {
                self.rest = rest;
                return Ok(found);
            }
            let key = self.form()?;
            self.skip_blank(0)?;
            if self.rest.starts_with('}') {
                return Err(format!("no value for {}", excerpt(key.as_bytes())));
            }
            let value = self.form()?;
            if key == wanted {
                found = Some(value);
            }
        }
    }

    /// The text of the form that begins here.
    fn form(&mut self) -> Result<&'a str, String> {
        let start = self.rest;
        self.skip_form(0)?;
        Ok(&start[..start.len() - self.rest.len()])
    }

    fn skip(&mut self) -> Result<(), String> {
        self.skip_form(0)
    }

    fn skip_form(&mut self, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("nested too deeply".to_owned());
        }
        self.skip_blank(depth)?;
        let unended = || "it ends within a form".to_owned();
        let first = self.rest.chars().next().ok_or_else(unended)?;
        let opening = match first {
            '{' | '[' | '(' => first.len_utf8(),
            '#' if self.rest.starts_with("#{") => 2,
            '}' | ']' | ')' => return Err(format!("`{first}` without its opening")),
            '"' => return self.skip_string(),
            '\\' => {
                // A character: the backslash, one character whatever it is, and the rest of its name.
                let named = self.rest.chars().nth(1).ok_or_else(unended)?;
                self.rest = &self.rest[1 + named.len_utf8()..];
                self.skip_token();
                return Ok(());
            }
            // A symbolic value such as ##Inf.
            '#' if self.rest.starts_with("##") => {
                self.skip_token();
                return Ok(());
            }
            '#' => {
                // A tag belongs to the form behind it.
                self.skip_token();
                return self.skip_form(depth + 1);
            }
            _ => {
                self.skip_token();
                return Ok(());
            }
        };
        let closing = match first {
            '[' => ']',
            '(' => ')',
            _ => '}',
        };
        self.rest = &self.rest[opening..];
        loop {
            self.skip_blank(depth)?;
            if let Some(rest) = self.rest.strip_prefix(closing) {
                self.rest = rest;
                return Ok(());
            }
            self.skip_form(depth + 1)?;
        }
    }

    /// To the next delimiter.
    fn skip_token(&mut self) {
        let delimits = |c: char| c.is_whitespace() || ",;\"{}[]()".contains(c);
        let end = self.rest.find(delimits).unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }

    fn skip_string(&mut self) -> Result<(), String> {
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(());
                }
                _ => {}
            }
        }
        Err("a string without its end".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_map_with_a_string_is_an_entry_point() {
        for text in [
            "{:s3-auth-path \"bucket/path\"}",
            " {:other [1 2 #{:a}], :s3-auth-path \"bucket/path\"} \n",
            "{:s3-auth-path \"bucket/path\" ; comment\n}\r\n",
            // What stands beside the key is skipped, whatever it is.
            "{:a 1N :b 1.5M :c -1.5e-3 :d \\u0041 :e \\newline :f 1/3 :s3-auth-path \"bucket/path\"}",
            "{:at #inst \"2026-01-01\" #_ {:x} #_#_ a b \\{ \\; :s3-auth-path \"bucket/path\" nil ##Inf}",
            "{#{1 2} (a [b {c d}]) :s3-auth-path \"bucket/path\" \"}\" \"\\\"\"}",
        ] {
            assert_eq!(
                read(text.as_bytes()),
                Ok(SystemId::new("bucket/path")),
                "{text}"
            );
        }
    }

    #[test]
    fn everything_else_is_none() {
        for (text, code) in [
            ("", "bad_edn"),
            ("{", "bad_edn"),
            ("{:s3-auth-path}", "bad_edn"),
            ("{:s3-auth-path \"a", "bad_edn"),
            ("{:a ]}", "bad_edn"),
            ("{:s3-auth-path \"a\"} {:s3-auth-path \"b\"}", "bad_edn"),
            ("[:s3-auth-path \"a\"]", "no_auth_path"),
            ("{:s3-auth-path bucket}", "no_auth_path"),
            ("{:s3-auth-path \"\"}", "no_auth_path"),
            ("{\"s3-auth-path\" \"a\"}", "no_auth_path"),
            ("ok", "no_auth_path"),
            ("{}", "no_auth_path"),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap_err().0, code, "{text}");
        }
        assert_eq!(read(b"{:s3-auth-path \"\xff\"}").unwrap_err().0, "bad_edn");
        let deep = "[".repeat(1024);
        assert_eq!(read(deep.as_bytes()).unwrap_err().0, "bad_edn");
    }
}
