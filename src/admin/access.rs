//! Who may ask for what: rules against rebound names, requests forged by web pages, and other users of the machine (see
//! `guide/reference-api.md`). Pure, but for reading the token's file.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::http::{Caller, Request};
use crate::sandbox;

/// How long reading the token may take.
const TOKEN_TIME: Duration = Duration::from_secs(2);

/// A token longer than this is none.
const TOKEN_MAX: u64 = 4096;

/// Whether the request names one of our hosts (any port). Browsers cannot forge `Host`: a rebound name shows here.
pub(super) fn host_allowed(request: &Request, hosts: &[String]) -> bool {
    let mut named: Vec<&str> = request.authority.as_deref().into_iter().collect();
    for value in request.headers.get_all("host") {
        // Not ASCII: no host of ours.
        named.push(value.to_str().unwrap_or(""));
    }
    // More than one `Host` is a trick; none at all is not ours either. A request target's own host counts as well.
    let fields = request.headers.get_all("host").iter().count();
    fields == 1 && named.iter().all(|name| is_one_of(name, hosts))
}

fn is_one_of(name: &str, hosts: &[String]) -> bool {
    let split = match name.strip_prefix('[') {
        Some(rest) => rest.find(']').map_or(name.len(), |end| end + 2),
        None => name.find(':').unwrap_or(name.len()),
    };
    let (host, port) = name.split_at(split);
    let port_fits = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    port_fits
        && hosts
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(host))
}

/// Why a change over TCP is refused; `None`: it is not.
pub(super) async fn change_refused(
    request: &Request,
    token_file: Option<&Path>,
) -> Option<&'static str> {
    if request.headers.contains_key("origin") {
        return Some("a change with an Origin comes from a web page");
    }
    // Anything but `none` was sent by a page, of whatever site: we have no pages.
    if request
        .headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site != "none")
    {
        return Some("a change with Sec-Fetch-Site comes from a web page");
    }
    let Some(file) = token_file else {
        return Some("changes over TCP are off");
    };
    let Some(token) = token_in(file.to_owned()).await else {
        return Some("the file of admin.token_file cannot be read or is empty");
    };
    match request.headers.get("x-entryway-token") {
        Some(given) if same(given.as_bytes(), token.as_bytes()) => None,
        Some(_) => Some("X-Entryway-Token is wrong"),
        None => Some("X-Entryway-Token is missing"),
    }
}

/// Read at each change, so that a new token holds at once; on a thread of its own, because a file system may hang.
async fn token_in(file: PathBuf) -> Option<String> {
    let reading = tokio::task::spawn_blocking(move || read_token(&file));
    tokio::time::timeout(TOKEN_TIME, reading).await.ok()?.ok()?
}

fn read_token(file: &Path) -> Option<String> {
    // A FIFO would be waited for.
    if !std::fs::metadata(file).ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = sandbox::open(file).ok()?;
    file.take(TOKEN_MAX + 1).read_to_string(&mut text).ok()?;
    let token = text.trim();
    (!token.is_empty() && text.len() as u64 <= TOKEN_MAX).then(|| token.to_owned())
}

/// Takes as long wherever the first difference is.
fn same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len()
        && given
            .iter()
            .zip(token)
            .fold(0, |seen, (a, b)| seen | (a ^ b))
            == 0
}

/// Whether this caller may use the control socket: our own user or root. Over TCP never asked.
pub(super) fn peer_allowed(caller: Caller, own_uid: u32) -> bool {
    match caller {
        Caller::Tcp(_) => true,
        Caller::Unix(uid) => uid.is_some_and(|uid| uid == own_uid || uid == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_ports() {
        let hosts: Vec<String> = ["localhost", "127.0.0.1", "[::1]"]
            .map(str::to_owned)
            .to_vec();
        for good in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1:8183",
            "[::1]",
            "[::1]:8183",
            "localhost:",
        ] {
            assert!(is_one_of(good, &hosts), "{good}");
        }
        for bad in [
            "",
            "evil",
            "localhost.evil",
            "localhost:80@evil",
            "localhost@evil",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "127.0.0.1.evil:1",
            "127.1",
            "localhost.",
            "localhost:1:2",
            " localhost",
            "[evil]:1",
        ] {
            assert!(!is_one_of(bad, &hosts), "{bad}");
        }
    }

    #[test]
    fn peers() {
        assert!(peer_allowed(Caller::Unix(Some(1000)), 1000));
        assert!(peer_allowed(Caller::Unix(Some(0)), 1000));
        assert!(!peer_allowed(Caller::Unix(Some(65534)), 1000));
        assert!(!peer_allowed(Caller::Unix(Some(65534)), 0));
        assert!(!peer_allowed(Caller::Unix(None), 1000));
    }

    #[test]
    fn tokens() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert_eq!(read_token(&file), None);
        // A folder, as a FIFO: not a file to read.
        assert_eq!(read_token(folder.path()), None);
        for (text, token) in [
            ("  s3cret\n", Some("s3cret")),
            ("\n", None),
            (&"x".repeat(5000), None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_token(&file).as_deref(), token);
        }
        assert!(
            same(b"abc", b"abc")
                && !same(b"abd", b"abc")
                && !same(b"ab", b"abc")
                && !same(b"", b"a")
        );
    }
}
