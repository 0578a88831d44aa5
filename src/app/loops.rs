//! A loop of two: another entryway of this user on this machine forwards to us what we forward to it, so that one
//! request goes round until the descriptors run out. Its listeners are refused then, as our own ones always are.
//!
//! Only addresses of this machine can lead there, so nothing is asked while there are none. Instances of other users and
//! of other network namespaces are not seen.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Upstream;
use crate::addr::is_own_listener;
use crate::admin::api_types::Endpoints;
use crate::admin::registration::{self, Registered};
use crate::dns::ResolverHandle;
use crate::events::{Events, event};
use crate::http::client::{self, Bounds, HttpTarget};
use crate::sys::local_address::is_local_address;
use crate::upstream::input::Input;

/// Pause between two looks while an address is refused: the other instance may end, or get another target.
const AGAIN: Duration = Duration::from_secs(10);

/// For the question to the other instance.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(2),
    body: 1 << 20,
};

/// Refuses what leads back to `own`, for one upstream, until the task is dropped.
pub(super) async fn watch(
    upstream: Upstream,
    own: Vec<SocketAddr>,
    resolver: ResolverHandle,
    events: Events,
) {
    let mut view = upstream.view.clone();
    let mut known = BTreeSet::new();
    let mut refused: BTreeSet<SocketAddr> = BTreeSet::new();
    loop {
        let local: BTreeSet<SocketAddr> = view
            .load()
            .all()
            .map(|(_, view)| view.address.socket)
            .filter(|socket| socket.ip().is_loopback() || is_local_address(socket.ip()))
            .collect();
        let mut again = !refused.is_empty();
        if again || local != known {
            let towards: BTreeSet<SocketAddr> = local.union(&refused).copied().collect();
            let found = leading_back(&own, &towards).await;
            for (pid, socket) in found.iter().filter(|(_, socket)| !refused.contains(socket)) {
                let warning = format!(
                    "{socket} is a listener of the entryway with process id {pid}, which forwards to this one: the \
                     address is not used"
                );
                event!(
                    events,
                    WARN,
                    "start",
                    "two instances forward to each other",
                    upstream = upstream.name.as_str(),
                    warning = warning,
                    hint = "give one of them another endpoint",
                );
            }
            let now: BTreeSet<SocketAddr> = found.into_iter().map(|(_, socket)| socket).collect();
            if now != refused {
                let all = own.iter().chain(&now).copied().collect();
                upstream.feed.send(Input::OwnListeners(all));
                // What is no longer refused was dropped, and comes back with the next answer for its name.
                resolver.refresh_now();
            }
            refused = now;
            again = !refused.is_empty();
            known = local.difference(&refused).copied().collect();
        }
        tokio::select! {
            () = view.changed() => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
}

/// Those of `towards` that are listeners of an instance that has one of `own` as an address.
async fn leading_back(
    own: &[SocketAddr],
    towards: &BTreeSet<SocketAddr>,
) -> Vec<(u32, SocketAddr)> {
    let mut found = Vec::new();
    if towards.is_empty() {
        return found;
    }
    let others = registration::discover().await;
    for other in others
        .iter()
        .filter(|other| other.pid != std::process::id())
    {
        let parsed = other.listeners.iter().filter_map(|text| text.parse().ok());
        let listeners: Vec<SocketAddr> = parsed.collect();
        let theirs = |socket: &&SocketAddr| is_own_listener(**socket, &listeners, is_local_address);
        let hit: Vec<SocketAddr> = towards.iter().filter(theirs).copied().collect();
        if !hit.is_empty() && forwards_to(other, own).await {
            found.extend(hit.into_iter().map(|socket| (other.pid, socket)));
        }
    }
    found
}

/// Whether one of the other's addresses is one of ours; not known counts as no.
async fn forwards_to(other: &Registered, own: &[SocketAddr]) -> bool {
    let target = match (&other.control, &other.admin) {
        (Some(path), _) => HttpTarget::Unix(PathBuf::from(path)),
        (None, Some(admin)) => HttpTarget::Tcp(admin.clone()),
        (None, None) => return false,
    };
    let Ok(answer) = client::get(&target, "/v1/endpoints", BOUNDS).await else {
        return false;
    };
    let Ok(endpoints) = serde_json::from_str::<Endpoints>(&answer.text()) else {
        return false;
    };
    let mut addresses = endpoints.endpoints.iter().flat_map(|one| &one.addresses);
    addresses.any(|address| {
        address
            .address
            .parse()
            .is_ok_and(|socket| is_own_listener(socket, own, is_local_address))
    })
}
