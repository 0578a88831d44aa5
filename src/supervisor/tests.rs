use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::{LocalSet, spawn_local};

use super::outlier::{HEARD_LATE, MIN_WAIT};
use super::*;
use crate::connection::tests::rig::*;
use crate::connection::{ConnectionPhase, WhenAllDown};
use crate::upstream::input::{Input, Intent, Suspicion};
use crate::upstream::settings::OnDown;
use crate::upstream::snapshot::{AddressView, EndpointView, HealthState, RebalanceCandidates};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A rig with two echoing endpoints and one client whose request was answered; and the snapshot as it is.
async fn answered() -> (Rig, tokio::net::TcpStream, Snapshot) {
    let ((one, first), (two, second)) = (listen().await, listen().await);
    spawn_local(echo(one));
    spawn_local(echo(two));
    let rig = Rig::new(&[first, second], policy(WhenAllDown::Hold, 1000)).await;
    let mut client = rig.client().await;
    says(&mut client, b"hello").await;
    let snapshot = Snapshot::clone(&rig.context.view.load());
    (rig, client, snapshot)
}

/// The same, with a request that nobody answers.
async fn waiting() -> (Rig, tokio::net::TcpStream, Snapshot) {
    let ((mute, first), (two, second)) = (listen().await, listen().await);
    spawn_local(echo(two));
    spawn_local(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = mute.accept().await {
            held.push(stream);
        }
    });
    let rig = Rig::new(&[first, second], policy(WhenAllDown::Hold, 1000)).await;
    let mut client = rig.client().await;
    client.write_all(b"anybody?").await.unwrap();
    eventually(|| {
        rig.context
            .registry
            .oldest(1)
            .iter()
            .any(|entry| entry.stats.waiting_since().is_some())
    })
    .await;
    let snapshot = Snapshot::clone(&rig.context.view.load());
    (rig, client, snapshot)
}

/// Why this is a command to close at rest, if it is one.
fn closes(command: Option<ConnectionCommand>) -> Option<Reason> {
    match command? {
        ConnectionCommand::CloseAtRest { reason, .. } => Some(reason),
        ConnectionCommand::Cut(_) => None,
    }
}

/// What is done about the only connection, `later` from now.
fn evaluate(
    rig: &Rig,
    snapshot: &Snapshot,
    rules: CloseRules,
    later: Duration,
) -> Option<ConnectionCommand> {
    let now = clock::now() + later;
    let mut rest = IdleCloser::default();
    rest.begin_pass(snapshot, now);
    let entry = rig.context.registry.oldest(1).remove(0);
    entry.relaying(|candidate, since| {
        let pair = Pair::of(&entry, since, now);
        let found = snapshot
            .all()
            .find(|(_, view)| view.address.socket == candidate.address.socket);
        rest.evaluate(&pair, found, snapshot, rules, now)
    })?
}

/// The views of the only connection's address, to be changed.
fn of_pair<'a>(rig: &Rig, snapshot: &'a mut Snapshot) -> (usize, &'a mut EndpointView) {
    let (candidate, _) = rig.context.registry.oldest(1)[0].candidate().unwrap();
    let socket = candidate.address.socket;
    let mut found = snapshot.endpoints.iter_mut().enumerate();
    found
        .find(|(_, endpoint)| endpoint.addresses[0].address.socket == socket)
        .unwrap()
}

fn view_of_pair<'a>(rig: &Rig, snapshot: &'a mut Snapshot) -> &'a mut AddressView {
    &mut of_pair(rig, snapshot).1.addresses[0]
}

#[tokio::test]
async fn pairs_at_rest_are_closed_for_a_reason_only() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, snapshot) = answered().await;
            let keep = CloseRules::default();
            assert_eq!(evaluate(&rig, &snapshot, keep, secs(3600)), None);

            let aged = CloseRules {
                max_age: Some(secs(60)),
                ..keep
            };
            assert_eq!(evaluate(&rig, &snapshot, aged, secs(50)), None);
            assert_eq!(
                closes(evaluate(&rig, &snapshot, aged, secs(67))),
                Some(Reason::MaxAge)
            );

            let mut drained = snapshot.clone();
            of_pair(&rig, &mut drained).1.intent = Intent::Drain;
            assert_eq!(
                evaluate(&rig, &drained, keep, secs(9)),
                None,
                "10 s of quiet"
            );
            assert_eq!(
                closes(evaluate(&rig, &drained, keep, secs(11))),
                Some(Reason::DrainIdle)
            );
            view_of_pair(&rig, &mut drained).state = HealthState::Suspect;
            assert_eq!(
                closes(evaluate(&rig, &drained, keep, secs(11))),
                Some(Reason::DrainIdle),
                "whatever the state of its address"
            );
            let mut doubtful = snapshot.clone();
            view_of_pair(&rig, &mut doubtful).state = HealthState::Suspect;
            assert_eq!(evaluate(&rig, &doubtful, aged, secs(67)), None, "in doubt");

            let mut other = snapshot.clone();
            view_of_pair(&rig, &mut other).mismatch = true;
            assert_eq!(
                closes(evaluate(&rig, &other, keep, secs(11))),
                Some(Reason::IdentityMismatch)
            );
        })
        .await;
}

#[tokio::test]
async fn one_that_waits_is_never_at_rest() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = waiting().await;
            of_pair(&rig, &mut snapshot).1.intent = Intent::Drain;
            view_of_pair(&rig, &mut snapshot).mismatch = true;
            let aged = CloseRules {
                max_age: Some(secs(1)),
                ..CloseRules::default()
            };
            assert_eq!(evaluate(&rig, &snapshot, aged, secs(3600)), None);
        })
        .await;
}

#[tokio::test]
async fn silence_cuts_who_waits_and_spares_who_is_answered() {
    LocalSet::new()
        .run_until(async {
            let rules = CloseRules::default();
            let (rig, _client, mut snapshot) = waiting().await;
            // The probe was sent after the request.
            let view = view_of_pair(&rig, &mut snapshot);
            view.state = HealthState::Down;
            view.down_by_silence = Some(clock::now());
            assert_eq!(evaluate(&rig, &snapshot, rules, secs(4)), None, "5 s first");
            let cut = Some(ConnectionCommand::Cut(Reason::EndpointSilent));
            assert_eq!(evaluate(&rig, &snapshot, rules, secs(6)), cut);
            let kept = CloseRules {
                on_down: OnDown::Keep,
                ..rules
            };
            assert_eq!(evaluate(&rig, &snapshot, kept, secs(6)), None);
            let (index, _) = of_pair(&rig, &mut snapshot);
            snapshot.endpoints[1 - index].addresses[0].state = HealthState::Suspect;
            assert_eq!(
                evaluate(&rig, &snapshot, rules, secs(6)),
                None,
                "no other is up"
            );

            let (rig, _client, mut snapshot) = answered().await;
            let view = view_of_pair(&rig, &mut snapshot);
            view.state = HealthState::Down;
            view.down_by_silence = Some(clock::now());
            assert_eq!(
                evaluate(&rig, &snapshot, rules, secs(6)),
                None,
                "10 s of quiet"
            );
            assert_eq!(
                closes(evaluate(&rig, &snapshot, rules, secs(12))),
                Some(Reason::EndpointSilent)
            );
        })
        .await;
}

#[tokio::test]
async fn pairs_at_rest_leave_an_address_that_answers_errors() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = answered().await;
            view_of_pair(&rig, &mut snapshot).state = HealthState::Down;
            let rules = CloseRules::default();
            let after = |ms| evaluate(&rig, &snapshot, rules, Duration::from_millis(ms));
            assert_eq!(after(200), None, "250 ms of quiet first");
            assert_eq!(closes(after(400)), Some(Reason::EndpointUnhealthy));
            let keep = CloseRules {
                on_down: OnDown::Keep,
                ..rules
            };
            assert_eq!(evaluate(&rig, &snapshot, keep, secs(1)), None);
            let (index, _) = of_pair(&rig, &mut snapshot.clone());
            let mut alone = snapshot.clone();
            alone.endpoints[1 - index].addresses[0].state = HealthState::Suspect;
            assert_eq!(
                evaluate(&rig, &alone, rules, secs(1)),
                None,
                "no other is up"
            );

            // One that waits for its answer is left alone, whatever the state.
            let (rig, _client, mut snapshot) = waiting().await;
            view_of_pair(&rig, &mut snapshot).state = HealthState::Down;
            assert_eq!(evaluate(&rig, &snapshot, rules, secs(60)), None);
        })
        .await;
}

/// Another zone is nearer than the address of the only connection from here on; that address.
fn is_farther(rig: &Rig, snapshot: &mut Snapshot) -> SocketAddr {
    let socket = view_of_pair(rig, snapshot).address.socket;
    snapshot.rebalance = Some(RebalanceCandidates {
        since: clock::now(),
        endpoints: Vec::new(),
        sockets: vec![socket],
    });
    socket
}

#[tokio::test]
async fn rebalancing_is_slow() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = answered().await;
            let socket = is_farther(&rig, &mut snapshot);
            let entry = rig.context.registry.oldest(1).remove(0);
            let mut rest = IdleCloser::default();
            let start = clock::now() + secs(20);
            let mut closed = Vec::new();
            // 100 connections, 40 seconds of passes: 5 a second on average, and in no second more.
            for look in 0..400u32 {
                let now = start + Duration::from_millis(100) * look;
                rest.begin_pass(&snapshot, now);
                for id in 0..100 {
                    let pair = Pair {
                        id,
                        age: secs(1),
                        since: entry.accepted,
                        is_ordered: false,
                        stats: &entry.stats,
                    };
                    let found = snapshot
                        .all()
                        .find(|(_, view)| view.address.socket == socket);
                    let order = rest.evaluate(&pair, found, &snapshot, CloseRules::default(), now);
                    if closes(order) == Some(Reason::Rebalance) {
                        closed.push(look);
                    }
                }
            }
            assert!((180..=205).contains(&closed.len()), "{}", closed.len());
            let busiest = (0..400)
                .map(|from| {
                    closed
                        .iter()
                        .filter(|at| (from..from + 10).contains(*at))
                        .count()
                })
                .max();
            assert_eq!(busiest, Some(5), "in any second");
        })
        .await;
}

/// One whose answer takes seconds must not use up the pace of all others.
#[tokio::test]
async fn one_that_is_to_leave_for_balance_is_not_chosen_again() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = answered().await;
            let socket = is_farther(&rig, &mut snapshot);
            let entry = rig.context.registry.oldest(1).remove(0);
            let start = clock::now() + secs(20);
            let mut rest = IdleCloser::default();
            let mut chosen = Vec::new();
            for pass in 0..4 {
                let now = start + secs(2) * pass;
                rest.begin_pass(&snapshot, now);
                for id in 0..2 {
                    let pair = Pair {
                        id,
                        age: secs(1),
                        since: entry.accepted,
                        is_ordered: chosen.iter().any(|(earlier, _)| *earlier == id),
                        stats: &entry.stats,
                    };
                    let found = snapshot
                        .all()
                        .find(|(_, view)| view.address.socket == socket);
                    if let Some(ConnectionCommand::CloseAtRest { until, .. }) =
                        rest.evaluate(&pair, found, &snapshot, CloseRules::default(), now)
                    {
                        chosen.push((id, until.since(now)));
                    }
                }
            }
            // A query of three seconds ends in that time.
            assert_eq!(chosen, [(0, secs(5)), (1, secs(5))]);
        })
        .await;
}

#[tokio::test]
async fn on_a_long_path_a_wait_counts_from_three_round_trips_on() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = waiting().await;
            let entry = rig.context.registry.oldest(1).remove(0);
            let (candidate, _) = entry.candidate().unwrap();
            // The rig's own connect was fast: the median needs more than one of the distant ones.
            for _ in 0..3 {
                candidate
                    .address
                    .connects
                    .record(Duration::from_millis(300));
            }
            let sent = entry.stats.waiting_since().unwrap();
            let view = view_of_pair(&rig, &mut snapshot).clone();
            let mut outlier = OutlierDetector::default();
            let mut suspicious = |after: u64| {
                let now = sent + Duration::from_millis(after);
                let found = outlier.inspect(&entry, &candidate, Some(&view), now);
                outlier.end_pass();
                found.is_some()
            };
            assert!(!suspicious(899));
            assert!(suspicious(901));
        })
        .await;
}

#[tokio::test]
async fn a_late_answer_is_told_once() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = waiting().await;
            let entry = rig.context.registry.oldest(1).remove(0);
            let (candidate, _) = entry.candidate().unwrap();
            candidate.address.answers.record(Duration::from_millis(100));
            let sent = entry.stats.waiting_since().unwrap();
            let mut silence = OutlierDetector::default();
            let reported = |after: u64, view: &AddressView, silence: &mut OutlierDetector| {
                let now = sent + Duration::from_millis(after);
                let fact = silence.inspect(&entry, &candidate, Some(view), now);
                silence.end_pass();
                fact.is_some()
            };
            let view = view_of_pair(&rig, &mut snapshot).clone();
            assert!(!reported(399, &view, &mut silence), "4 times the median");
            assert!(reported(401, &view, &mut silence));
            assert!(!reported(60_000, &view, &mut silence), "one request once");
            let mut late = OutlierDetector::default();
            late.discount_until(sent + secs(2));
            assert!(!reported(2200, &view, &mut late), "we were late ourselves");
            assert!(reported(2500, &view, &mut late));
        })
        .await;
}

#[tokio::test]
async fn an_address_that_is_mute_on_all_connections_is_told_so() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = waiting().await;
            let mut second = rig.client().await;
            second.write_all(b"anybody else?").await.unwrap();
            let waits = |entry: &Arc<Entry>| entry.stats.waiting_since().is_some();
            eventually(|| {
                rig.context
                    .registry
                    .oldest(2)
                    .iter()
                    .filter(|entry| waits(entry))
                    .count()
                    == 2
            })
            .await;
            let view = view_of_pair(&rig, &mut snapshot).clone();
            let mut silence = OutlierDetector::default();
            let mut look = |after: u64| {
                let mut reported = Vec::new();
                for entry in rig.context.registry.oldest(2) {
                    let (candidate, _) = entry.candidate().unwrap();
                    let now = entry.stats.waiting_since().unwrap() + Duration::from_millis(after);
                    if let Some(Input::Suspect { why, .. }) =
                        silence.inspect(&entry, &candidate, Some(&view), now)
                    {
                        reported.push(why);
                    }
                }
                silence.end_pass();
                reported
            };
            assert_eq!(look(300), [Suspicion::SlowAnswer; 2]);
            assert_eq!(
                look(400),
                [Suspicion::Mute; 2],
                "both overdue in the look before, and nothing heard"
            );
            assert_eq!(look(500), [], "each request once");
        })
        .await;
}

#[tokio::test]
async fn requests_that_were_overdue_when_the_address_spoke_do_not_make_it_mute() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, mut snapshot) = waiting().await;
            let all_wait = async |count: usize| {
                eventually(|| {
                    let waits = |entry: &Arc<Entry>| entry.stats.waiting_since().is_some();
                    rig.context
                        .registry
                        .oldest(9)
                        .iter()
                        .filter(|entry| waits(entry))
                        .count()
                        == count
                })
                .await;
            };
            let mut clients = vec![rig.client().await];
            clients[0].write_all(b"a slow query").await.unwrap();
            all_wait(2).await;
            let view = view_of_pair(&rig, &mut snapshot).clone();
            let mut silence = OutlierDetector::default();
            let mut look = |entries: &[Arc<Entry>], after: u64| {
                let mut reported = Vec::new();
                for entry in entries {
                    let (candidate, _) = entry.candidate().unwrap();
                    let now = entry.stats.waiting_since().unwrap() + Duration::from_millis(after);
                    if let Some(Input::Suspect { why, .. }) =
                        silence.inspect(entry, &candidate, Some(&view), now)
                    {
                        reported.push(why);
                    }
                }
                silence.end_pass();
                reported
            };
            // It answers others while these two are overdue, and then nobody asks for a while.
            tokio::time::sleep(MIN_WAIT + HEARD_LATE + Duration::from_millis(50)).await;
            let slow = rig.context.registry.oldest(2);
            slow[0].candidate().unwrap().0.address.record_activity();
            assert_eq!(look(&slow, 900), [Suspicion::SlowAnswer; 2]);
            assert_eq!(look(&slow, 1000), [], "slow, not mute");
            for _ in 0..2 {
                clients.push(rig.client().await);
                clients
                    .last_mut()
                    .unwrap()
                    .write_all(b"hello?")
                    .await
                    .unwrap();
            }
            all_wait(4).await;
            let new = rig.context.registry.oldest(4).split_off(2);
            assert_eq!(look(&new, 300), [Suspicion::SlowAnswer; 2]);
            assert_eq!(
                look(&new, 400),
                [Suspicion::Mute; 2],
                "nothing since these were sent"
            );
        })
        .await;
}

#[tokio::test]
async fn the_pool_hears_of_a_late_answer() {
    LocalSet::new()
        .run_until(async {
            let (rig, _client, _) = waiting().await;
            let upstream = UpstreamEntry {
                upstream: rig.context.upstream.clone(),
                view: rig.context.view.clone(),
                feed: rig.context.feed.clone(),
                rules: Arc::default(),
            };
            let (supervisor, _ending) = new(
                rig.context.registry.clone(),
                vec![upstream],
                Arc::default(),
                &rig.metrics,
                &rig.context.events,
            );
            spawn_local(supervisor.run());
            let (candidate, _) = rig.context.registry.oldest(1)[0].candidate().unwrap();
            eventually(|| {
                let snapshot = rig.context.view.load();
                let view = snapshot.address(candidate.address.socket);
                view.is_some_and(|view| view.state == HealthState::Suspect)
            })
            .await;
        })
        .await;
}

#[tokio::test]
async fn a_shutdown_closes_at_rest_and_cuts_at_the_end() {
    LocalSet::new()
        .run_until(async {
            let (mut rig, mut client, _) = answered().await;
            let mut busy = rig.client().await;
            says(&mut busy, b"x").await;
            let (supervisor, control) = new(
                rig.context.registry.clone(),
                Vec::new(),
                Arc::default(),
                &rig.metrics,
                &rig.context.events,
            );
            spawn_local(supervisor.run());
            control.drain(Duration::from_millis(1500));
            let began = tokio::time::Instant::now();
            // One is never at rest: a byte every 20 ms.
            spawn_local(async move {
                while busy.write_all(b"y").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            assert!(end_of(&mut client).await.unwrap().is_empty());
            assert!(began.elapsed() >= Duration::from_millis(900));
            drop(client);
            assert_eq!(rig.closed().await.text("conn.reason"), Some("drain_idle"));
            assert_eq!(
                rig.closed().await.text("conn.reason"),
                Some("drain_deadline")
            );
            assert!(began.elapsed() >= Duration::from_millis(1400));
            assert!(
                !rig.context
                    .registry
                    .oldest(9)
                    .iter()
                    .any(|entry| !matches!(entry.phase(), ConnectionPhase::Leaving))
            );
            assert_eq!(rig.metrics.sum("drain_cut_total"), 1.0);
        })
        .await;
}

#[tokio::test]
async fn one_that_was_parked_is_served_in_a_drain() {
    LocalSet::new()
        .run_until(async {
            let (later, to) = Later::new();
            let mut rig = Rig::new(&[to], policy(WhenAllDown::Hold, 10_000)).await;
            let mut client = rig.client().await;
            client.write_all(b"patience").await.unwrap();
            eventually(|| rig.context.parked() == 1).await;
            let registry = rig.context.registry.clone();
            let (supervisor, control) = new(
                registry,
                Vec::new(),
                Arc::default(),
                &rig.metrics,
                &rig.context.events,
            );
            spawn_local(supervisor.run());
            // The last fifth begins after 4 s: there a second of quiet is enough.
            control.drain(secs(5));
            // Long enough to pass for at rest, were it connected.
            tokio::time::sleep(Duration::from_millis(1300)).await;
            assert_eq!(rig.context.parked(), 1);
            spawn_local(echo(later.listen()));
            let mut back = [0; 8];
            tokio::io::AsyncReadExt::read_exact(&mut client, &mut back)
                .await
                .unwrap();
            assert_eq!(&back, b"patience");
            assert!(end_of(&mut client).await.unwrap().is_empty());
            drop(client);
            assert_eq!(rig.closed().await.text("conn.reason"), Some("drain_idle"));
        })
        .await;
}
