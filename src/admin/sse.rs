//! `/v1/events`: what happens, as server-sent events.
//!
//! Each event is the JSON object of its log line. Without `Last-Event-ID` a reader gets what follows; with one, what
//! followed it, as far as it is kept; with one that this instance never gave out, all that is kept. A reader that is too
//! slow loses the oldest events, which the gap in the ids shows, and holds up nothing.

use std::time::Duration;

use tokio::time::timeout;

use crate::drain::DrainWatcher;
use crate::events::Events;
use crate::http::{self, Body, Reply, StatusCode};

/// Events sent to a reader that asks for what it has missed.
const REPLAYED: usize = 1000;

/// How long a reader waits for company after an event, so that a busy instance sends batches.
const GATHER: Duration = Duration::from_millis(50);

/// A comment is sent after this long without an event, so that nothing on the way takes the connection for dead.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Bytes in one batch.
const BATCH: usize = 64 * 1024;

/// Events copied for one batch, while nobody else can record one: about twice as many as fit when they are about
/// connections.
const COPIED: usize = 256;

pub(super) fn stream(events: Events, last_event_id: Option<&str>, mut stop: DrainWatcher) -> Reply {
    let (sender, body) = Body::channel(1);
    let recent = events.recent();
    let mut last = match last_event_id {
        None => recent.last(),
        Some(id) => recent
            .number(id)
            .unwrap_or(0)
            .max(recent.last().saturating_sub(REPLAYED as u64)),
    };
    tokio::spawn(async move {
        let recent = events.recent();
        // The first bytes at once: a reader knows that it is connected.
        let mut batch = String::from("retry: 1000\n\n");
        loop {
            if sender
                .send(std::mem::take(&mut batch).into())
                .await
                .is_err()
            {
                return;
            }
            tokio::select! {
                () = stop.fired() => return,
                () = sender.closed() => return,
                waited = timeout(KEEPALIVE, recent.wait_after(last)) => {
                    if waited.is_err() {
                        batch.push_str(":\n\n");
                        continue;
                    }
                }
            }
            tokio::time::sleep(GATHER).await;
            for event in recent.after(last, COPIED) {
                if batch.len() > BATCH {
                    break;
                }
                last = event.id;
                batch.push_str("id: ");
                batch.push_str(&recent.id(event.id));
                batch.push_str("\ndata: ");
                batch.push_str(event.line.trim_end());
                batch.push_str("\n\n");
            }
        }
    });
    http::reply(StatusCode::OK, "text/event-stream", body)
}
