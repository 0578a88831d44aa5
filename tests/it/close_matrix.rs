//! Close semantics equal those of a direct connection: every cell of {FIN, RST, half-close, silent} × {client,
//! upstream} × {before the first byte, idle, data in flight, lane full, lane full the other way} × {buffer, pipe}, with
//! one endpoint, against a direct connection as the oracle. Prints the table.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use entryway::sys::tcp_info::unsent;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::client::{End, acknowledged, fill, read_exactly, read_for, read_out};
use crate::harness::upstream::{pattern, reset};
use crate::harness::{BULK_LANE, Conf, Entryway, Stage, eventually, no_leaks};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Fin,
    Rst,
    HalfClose,
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Upstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    BeforeFirstByte,
    Idle,
    InFlight,
    LaneFull,
    FullOtherWay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Buffer,
    Pipe,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    how: How,
    who: Who,
    when: When,
    lane: Lane,
}

/// What both sides saw.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Whether the other side got every byte it was promised (all; after a reset: all that were acknowledged).
    whole: bool,
    /// How the stream ended for the other side.
    end: End,
    /// What became of bytes that the other side sent then: arrived, or its stream was broken by them.
    back: Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    Arrived,
    Broken,
    NotTried,
}

const IN_FLIGHT: usize = 32 * 1024;

fn cells(lane: Lane) -> Vec<Cell> {
    let mut cells = Vec::new();
    for when in [
        When::BeforeFirstByte,
        When::Idle,
        When::InFlight,
        When::LaneFull,
        When::FullOtherWay,
    ] {
        for who in [Who::Client, Who::Upstream] {
            for how in [How::Fin, How::Rst, How::HalfClose, How::Silent] {
                // There is no pipe before there was a byte.
                if (lane, when) != (Lane::Pipe, When::BeforeFirstByte) {
                    cells.push(Cell {
                        how,
                        who,
                        when,
                        lane,
                    });
                }
            }
        }
    }
    cells
}

/// Bytes both ways: enough of them to be in the pipe lane, or a request and its answer.
async fn warm_up(client: &mut TcpStream, server: &mut TcpStream, lane: Lane) {
    let count = if lane == Lane::Pipe { 4 << 20 } else { 100 };
    for _ in 0..2 {
        let bytes = pattern(0, count);
        let (sent, got) = tokio::join!(client.write_all(&bytes), read_exactly(server, count));
        sent.unwrap();
        assert!(got == bytes);
        let (sent, got) = tokio::join!(server.write_all(&bytes), read_exactly(client, count));
        sent.unwrap();
        assert!(got == bytes);
    }
}

/// Plays one cell on a connection; what was seen.
async fn play(cell: Cell, (mut client, mut server): (TcpStream, TcpStream)) -> Seen {
    if cell.when != When::BeforeFirstByte {
        warm_up(&mut client, &mut server, cell.lane).await;
    }
    let (mut actor, mut other) = match cell.who {
        Who::Client => (client, server),
        Who::Upstream => (server, client),
    };
    let (mut sent, mut against) = (0, 0);
    match cell.when {
        When::BeforeFirstByte | When::Idle => {}
        When::InFlight => {
            sent = IN_FLIGHT;
            actor.write_all(&pattern(0, sent)).await.unwrap();
        }
        When::LaneFull => sent = fill(&mut actor, 0).await,
        When::FullOtherWay => against = fill(&mut other, 0).await,
    }
    let mut promised = sent;
    let mut still = None;
    match cell.how {
        // Closing with unread input is a reset by itself: that cell compares as what it is.
        How::Fin => drop(actor),
        How::Rst => {
            if cell.when == When::InFlight {
                acknowledged(&actor).await;
            }
            // Answers to the warm-up may count as well.
            promised = sent.saturating_sub(unsent(&actor).unwrap() as usize);
            reset(actor);
        }
        How::HalfClose => {
            actor.shutdown().await.unwrap();
            still = Some(actor);
        }
        How::Silent => still = Some(actor),
    }
    let (got, end) = match cell.how {
        How::Silent => read_for(&mut other, Duration::from_millis(400)).await,
        _ => read_out(&mut other).await,
    };
    let whole = got.len() >= promised && got.len() <= sent && got == pattern(0, got.len());
    let back = match (end, still) {
        (End::Reset, _) => Back::NotTried,
        (_, Some(actor)) => answer(&mut other, actor, against).await,
        (_, None) => breaks(&mut other).await,
    };
    Seen { whole, end, back }
}

/// The other side answers, after whatever it had sent before; the actor, which has only stopped sending, gets it all.
async fn answer(other: &mut TcpStream, mut actor: TcpStream, against: usize) -> Back {
    let (sent, got) = tokio::join!(
        async {
            other.write_all(b"answer").await?;
            other.shutdown().await
        },
        read_out(&mut actor)
    );
    let (bytes, end) = got;
    let expected: Vec<u8> = [pattern(0, against), b"answer".to_vec()].concat();
    if sent.is_ok() && end == End::Fin && bytes == expected {
        Back::Arrived
    } else {
        Back::Broken
    }
}

/// The other side sends to one that has closed: sooner or later its stream is broken.
async fn breaks(other: &mut TcpStream) -> Back {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        match timeout(Duration::from_millis(200), other.write_all(b"too late")).await {
            Ok(Err(_)) => return Back::Broken,
            _ => sleep(Duration::from_millis(2)).await,
        }
    }
    Back::Arrived
}

/// All cells at once, in connections made one after the other, each of which `is_made` knows of; with the local
/// addresses of the clients. What a cell that breaks off was is told.
async fn play_all(
    stage: &Stage,
    at: SocketAddr,
    lane: Lane,
    is_made: impl Fn(usize) -> bool,
) -> Vec<(Cell, SocketAddr, Option<Seen>)> {
    let mut games = Vec::new();
    for (number, cell) in cells(lane).into_iter().enumerate() {
        let pair = stage.pair(at).await;
        eventually("the connection is made", || is_made(number + 1)).await;
        let from = pair.0.local_addr().unwrap();
        games.push((cell, from, tokio::spawn(play(cell, pair))));
    }
    let mut seen = Vec::new();
    for (cell, from, game) in games {
        let result = game
            .await
            .inspect_err(|error| println!("{cell:?} of {from}: {error}"));
        seen.push((cell, from, result.ok()));
    }
    seen
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = if self.whole { "all" } else { "LOST" };
        let (end, back) = (format!("{:?}", self.end), format!("{:?}", self.back));
        write!(f, "{bytes:4} {end:5} {back:8}")
    }
}

fn show(seen: &Option<Seen>) -> String {
    seen.as_ref()
        .map_or("broke off".to_owned(), ToString::to_string)
}

/// Why our record says it ended, cell by cell.
fn reason(cell: Cell) -> &'static str {
    let full = cell.when == When::FullOtherWay;
    match (cell.how, cell.who) {
        (How::Fin, Who::Client) if full => "client_rst",
        (How::Fin, Who::Upstream) if full => "upstream_rst",
        (How::Rst, Who::Client) => "client_rst",
        (How::Rst, Who::Upstream) => "upstream_rst",
        (How::Fin | How::HalfClose, Who::Client) | (How::Silent, Who::Upstream) => "client_fin",
        (How::Fin | How::HalfClose, Who::Upstream) | (How::Silent, Who::Client) => "upstream_fin",
    }
}

async fn compare(lane: Lane) {
    let stage = Stage::new().await;
    let (splice, name) = if lane == Lane::Pipe {
        ("auto", BULK_LANE)
    } else {
        ("off", "buffer")
    };
    let conf = Conf::to(&[stage.address()]).upstream(&format!("splice = \"{splice}\""));
    let entryway = Entryway::start(&conf).await;
    judge(lane, name, &stage, &entryway).await;
    no_leaks(entryway).await;
}

/// Plays all cells with a direct connection and through `entryway`, which leads to `stage`; `name`: what its record calls
/// the lane.
async fn judge(lane: Lane, name: &str, stage: &Stage, entryway: &Entryway) {
    let direct_stage = Stage::new().await;
    let direct = play_all(&direct_stage, direct_stage.address(), lane, |_| true).await;
    // Behind a gateway the upstream has accepted before we know it, and an end of that moment would be another's.
    let made = || entryway.metric("entryway_connect_attempts_total", &[("result", "ok")]);
    let is_made = |count: usize| made() >= count as f64;
    let through = play_all(stage, entryway.address(), lane, is_made).await;
    println!(
        "{:6} {:15} {:8} {:9} | {:19} | {:19} | told as",
        "lane", "when", "who", "how", "direct", "through"
    );
    let mut wrong = 0;
    for ((cell, _, oracle), (_, from, seen)) in direct.iter().zip(&through) {
        let line = entryway.close_of(*from).await;
        let told = line["conn.reason"].as_str().unwrap();
        // A FIN that is answered by bytes to a closed socket ends as the reset that comes back.
        let broken = cell.how == How::Fin && told.ends_with("_rst");
        // A reset that is faster than our look at the fresh connection ends the dial: no lane was ever taken.
        let early = cell.when == When::BeforeFirstByte
            && cell.how == How::Rst
            && line["conn.lane"].is_null();
        let right = oracle.is_some()
            && oracle == seen
            && (told == reason(*cell) || broken)
            && (line["conn.lane"] == name || early);
        wrong += usize::from(!right);
        let (when, who, how) = (
            format!("{:?}", cell.when),
            format!("{:?}", cell.who),
            format!("{:?}", cell.how),
        );
        let mark = if right { "" } else { "  <-- WRONG" };
        println!(
            "{name:6} {when:15} {who:8} {how:9} | {} | {} | {told}{mark}",
            show(oracle),
            show(seen)
        );
    }
    println!("{} cells, {wrong} wrong", direct.len());
    assert_eq!(wrong, 0);
}

#[tokio::test]
async fn every_buffer_cell_equals_a_direct_connection() {
    compare(Lane::Buffer).await;
}

#[tokio::test]
async fn every_pipe_cell_equals_a_direct_connection() {
    compare(Lane::Pipe).await;
}

/// The same with a gateway between, so that every end passes through TLS: a FIN as close_notify and FIN, a reset as one.
#[cfg(feature = "gateway")]
#[tokio::test]
async fn every_cell_through_a_gateway_equals_a_direct_connection() {
    use crate::harness::gateway::{Gateway, Pki};
    let stage = Stage::new().await;
    let gateway = Gateway::start(Pki::new().await, stage.address(), &[]).await;
    let via = gateway.via_through(gateway.address);
    let entryway = Entryway::start(&Conf::to(&["default:8182"]).upstream(&via)).await;
    judge(Lane::Buffer, "buffer", &stage, &entryway).await;
    no_leaks(entryway).await;
}
