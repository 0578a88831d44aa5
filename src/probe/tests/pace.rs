//! The book of what was sent: pure, times are arguments.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::probe::follow::{Book, Wish};
use crate::upstream::endpoint::Address;
use crate::upstream::snapshot::Pace;
use crate::upstream::timing::HealthSettings;

const fn ms(millis: u64) -> Moment {
    Moment::at(Duration::from_millis(millis))
}

fn wish(port: u16, probe_at: Moment, pace: Pace) -> Wish {
    Wish {
        address: Arc::new(Address::new(([127, 0, 0, 1], port).into())),
        host: String::new(),
        probe_at,
        pace,
    }
}

/// Whether the one wish is sent now, and when to look again.
fn ask(book: &mut Book, now: Moment, wish: &Wish) -> (bool, Option<Moment>) {
    let settings = HealthSettings::default();
    let (due, next) = book.take_due(vec![wish.clone()], now, &settings);
    (!due.is_empty(), next)
}

const FAST: Pace = Pace::Fast(Duration::from_millis(200));

#[test]
fn a_regular_probe_goes_when_its_time_comes_and_alone() {
    let mut book = Book::default();
    let first = wish(1, ms(500), Pace::Regular);
    assert_eq!(ask(&mut book, ms(0), &first), (false, Some(ms(500))));
    assert_eq!(ask(&mut book, ms(500), &first), (true, None));
    // Asked for again while it is under way: after it has landed.
    let again = wish(1, ms(900), Pace::Regular);
    assert_eq!(ask(&mut book, ms(900), &again), (false, None));
    book.landed(first.address.socket);
    assert!(ask(&mut book, ms(950), &again).0);
    // Landed, and the snapshot is still the old one: not again before the interval is over.
    book.landed(first.address.socket);
    assert_eq!(ask(&mut book, ms(960), &again), (false, Some(ms(6950))));
}

#[test]
fn fast_probes_overlap_and_keep_the_cap() {
    let mut book = Book::default();
    let fast = wish(1, ms(0), FAST);
    let sent = (0..2000).filter(|now| ask(&mut book, ms(*now), &fast).0);
    assert_eq!(sent.count(), 10);
    // A time that moves on with every snapshot is no way around the cap either.
    let mut book = Book::default();
    let sent = (0..2000).filter(|now| {
        let pushy = wish(1, ms(*now), Pace::Regular);
        let (sent, _) = ask(&mut book, ms(*now), &pushy);
        book.landed(pushy.address.socket);
        sent
    });
    assert_eq!(sent.count(), 10);
}

#[test]
fn a_pile_of_unanswered_fast_probes_is_bounded() {
    let mut book = Book::default();
    let fast = wish(1, ms(0), FAST);
    let sent = (0..60_000)
        .step_by(10)
        .filter(|now| ask(&mut book, ms(*now), &fast).0);
    assert_eq!(sent.count(), 16);
}

#[test]
fn off_means_off_and_an_address_that_left_is_forgotten() {
    let mut book = Book::default();
    assert_eq!(
        ask(&mut book, ms(5), &wish(1, ms(0), Pace::Off)),
        (false, None)
    );
    let gone = wish(1, ms(0), Pace::Regular);
    assert!(ask(&mut book, ms(10), &gone).0);
    book.landed(gone.address.socket);
    assert!(ask(&mut book, ms(300), &wish(2, ms(0), Pace::Regular)).0);
    // Back with its old time: a new address as far as the book goes.
    assert!(ask(&mut book, ms(310), &gone).0);
}
