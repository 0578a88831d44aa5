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
    let (value, rest) =
        edn::read(text).map_err(|error| ("bad_edn", format!("{:?}", error.code)))?;
    if !rest.trim().is_empty() {
        return Err(("bad_edn", "more than one value".to_owned()));
    }
    let Edn::Map(map) = &value else {
        return Err(("no_auth_path", "not a map".to_owned()));
    };
    match map.get(&Edn::Key("s3-auth-path".into())) {
        Some(Edn::Str(path)) if !path.is_empty() => Ok(SystemId::new(path)),
        Some(_) => Err(("no_auth_path", ":s3-auth-path is not a string".to_owned())),
        None => Err(("no_auth_path", "no :s3-auth-path".to_owned())),
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
