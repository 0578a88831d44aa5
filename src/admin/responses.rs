//! How answers are written that take more than one line.

use super::api_types;
use super::health::{HealthCheck, all_ok};
use crate::http::{self, Body, Reply, Request, StatusCode};

/// Connections in one slice of an answer.
const SLICE: usize = 100;

/// The method does not fit the path.
pub(super) fn not_allowed(changes: bool) -> Reply {
    let allow = if changes { "POST" } else { "GET, HEAD" };
    let mut reply = http::problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "wrong method",
        format!("this path takes {allow}"),
        "",
    );
    reply
        .headers_mut()
        .insert("allow", http::HeaderValue::from_static(allow));
    reply
}

/// The request makes no sense.
pub(super) fn bad(what: impl Into<String>) -> Reply {
    http::problem(
        StatusCode::BAD_REQUEST,
        "bad-request",
        "request not understood",
        what,
        "",
    )
}

/// The checks, as one word or, where asked for, one a line.
pub(super) fn health(not: &'static str, checks: &[HealthCheck], request: &Request) -> Reply {
    let ok = all_ok(checks);
    let code = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if request.flag("verbose") {
        let lines: Vec<String> = checks
            .iter()
            .map(|check| {
                let (mark, word) = if check.ok {
                    ('+', "ok")
                } else {
                    ('-', "failed")
                };
                format!("[{mark}]{} {word}: {}\n", check.name, check.detail)
            })
            .collect();
        return http::text(code, lines.concat());
    }
    if ok {
        return http::text(code, "ok\n");
    }
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| !check.ok)
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    http::problem(
        code,
        "health",
        not,
        failed.join("; "),
        "?verbose lists all checks",
    )
}

/// Written in slices: thousands of connections must not hold the control thread.
pub(super) fn connections(all: Vec<api_types::ConnectionJson>) -> Reply {
    let head = format!(
        "{{\"schema_version\":{},\"connections\":[",
        api_types::SCHEMA_VERSION
    );
    let mut left = all.into_iter().peekable();
    let mut first = true;
    let slices = std::iter::from_fn(move || {
        left.peek()?;
        let mut slice = String::new();
        for one in left.by_ref().take(SLICE) {
            if !std::mem::take(&mut first) {
                slice.push(',');
            }
            // Strings, numbers and booleans: it cannot fail.
            slice.push_str(&serde_json::to_string(&one).unwrap_or_default());
        }
        Some(slice)
    });
    let whole = std::iter::once(head)
        .chain(slices)
        .chain(std::iter::once("]}\n".to_owned()));
    http::reply(StatusCode::OK, "application/json", Body::slices(whole))
}
