//! Whether addresses or default routes of this machine have changed: another network, a VPN that came up or went.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use tokio::time::sleep;

use crate::sys::route_changes::RouteChanges;

/// Changes come in bursts: an address goes, another comes, a route follows. What is done about them waits for the rest.
const BURST: Duration = Duration::from_millis(500);

/// Changes may never end, as on a host where containers come and go: between two calls there is this pause.
const PAUSE: Duration = Duration::from_secs(5);

/// Calls `changed` after each burst of changes. Fails where the system does not tell of them.
pub async fn watch(mut changed: impl FnMut()) -> io::Result<Infallible> {
    let mut changes = RouteChanges::open()?;
    loop {
        changes.next().await?;
        sleep(BURST).await;
        changes.forget();
        changed();
        sleep(PAUSE).await;
    }
}
