//! Keeps the connected spares of one upstream: for the endpoint that new connections go to, on addresses that are up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::clock;
use crate::connection::Route;
use crate::upstream::endpoint::Candidate;
use crate::upstream::snapshot::{Pace, State};

/// How often spares are looked after when nothing happens.
const LOOK: Duration = Duration::from_millis(250);

/// Runs until dropped. One per upstream: routes of one upstream share the dialer, so any of them will do. Where no
/// spares are wanted it only watches for a reload that wants some.
pub async fn keep_spares(route: Arc<Route>) {
    let mut view = route.view.clone();
    loop {
        let dialer = route.dialer.load_full();
        if !dialer.warm().is_on() {
            sleep(4 * LOOK).await;
            continue;
        }
        dialer.tend_spares(&preferred(&route)).await;
        tokio::select! {
            () = dialer.warm().taken() => {}
            () = view.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// The addresses of the best endpoint that are up, best first.
fn preferred(route: &Route) -> Vec<Candidate> {
    let snapshot = route.view.load();
    // Without a draw: where a ramp is under way, the spares stay with the zone that is left last.
    let mut order = snapshot.order(clock::now(), 1.0);
    let Some(best) = order.first().map(|best| Arc::clone(&best.endpoint)) else {
        return order;
    };
    order.retain(|candidate| {
        Arc::ptr_eq(&candidate.endpoint, &best)
            && snapshot
                .address(candidate.address.socket)
                // Without probes nothing is ever known to be up, and clients go there all the same.
                .is_some_and(|view| view.state == State::Up || view.pace == Pace::Off)
    });
    order
}
