//! What the limit of open files allows, said at the start.

use crate::events::{Events, event};
use crate::sys::limits::{self, DescriptorBudget};

/// A small limit is felt much later, as connections that are closed: it is said before.
pub(super) fn warn_about_few_connections(budget: &DescriptorBudget, events: &Events) {
    if budget.max_connections >= limits::FEW_CONNECTIONS {
        return;
    }
    let text = format!(
        "{} open files allow {} connections at once",
        budget.descriptors, budget.max_connections
    );
    event!(
        events,
        WARN,
        "resource",
        text,
        connections = budget.max_connections,
        limit = budget.descriptors,
        hint = "raise the limit of open files (RLIMIT_NOFILE, LimitNOFILE, ulimits)",
    );
}
