//! `FakeDns`: a scripted DNS server (UDP and TCP on one port of 127.0.0.1) that answers well, badly or not at all.
//!
//! Each (name, type) has a sequence of [`Reply`]s; the last one repeats. A name without a script is NXDOMAIN. Written
//! on the wire by hand, because half of the replies are ones that no library would send. Counts what it is asked.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use wire::{encode, question};

#[path = "dns/wire.rs"]
mod wire;

/// Type A.
pub const A: u16 = 1;
/// Type AAAA.
pub const AAAA: u16 = 28;

/// What the server does with one query.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Addresses of the asked type among these, with this TTL in seconds.
    Ips(Vec<IpAddr>, u32),
    /// NOERROR without records.
    NoData,
    /// NXDOMAIN.
    NxDomain,
    /// SERVFAIL.
    ServFail,
    /// REFUSED.
    Refused,
    /// FORMERR, as servers give that do not know EDNS.
    FormErr,
    /// NOTIMP.
    NotImp,
    /// BADVERS, an extended code in an OPT record.
    BadVers,
    /// The first reply to a query with EDNS, the second to one without.
    NoEdns(Box<Reply>, Box<Reply>),
    /// Nothing at all.
    Silence,
    /// TC over UDP, this reply over TCP.
    Truncated(Box<Reply>),
    /// TC over UDP, and TCP connections are closed at once.
    TruncatedNoTcp,
    /// TC over UDP and over TCP.
    TruncatedTwice,
    /// The right id, then bytes that are no message.
    Garbage,
    /// Three bytes.
    Short,
    /// An empty datagram.
    Empty,
    /// A good answer with another id.
    WrongId,
    /// A good answer to another question.
    WrongQuestion,
    /// A good answer with the opcode UPDATE.
    WrongOpcode,
    /// A good answer to the question in class CH.
    WrongClass,
    /// Good records, but of class CH.
    WrongRecordClass,
    /// A good answer from another port.
    WrongSource,
    /// The record belongs to another name.
    WrongOwner,
    /// The query sent back as it came.
    Echo,
    /// The counts promise 65535 records that are not there.
    LyingCounts,
    /// A record's length runs over the end.
    BadLength,
    /// A compression pointer that points at itself.
    PointerLoop,
    /// This many CNAMEs, then the addresses.
    Cnames(usize, Vec<IpAddr>, u32),
    /// A CNAME to itself and back.
    CnameLoop,
    /// A CNAME whose target has no records in the answer.
    CnameNowhere,
    /// This many records, 10.9.x.y, in one answer (over TCP where they do not fit).
    Many(usize),
    /// The reply, this much later.
    Delay(Duration, Box<Reply>),
    /// One of the addresses per query, in turn.
    Rotate(Vec<IpAddr>, u32),
}

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct FakeDns {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    script: HashMap<(String, u16), Vec<Reply>>,
    asked: Vec<(Instant, String, u16)>,
}

struct Query<'a> {
    message: &'a [u8],
    /// End of the question section.
    end: usize,
    name: String,
    kind: u16,
    /// The how-manieth of its name and type, from 0.
    nth: usize,
}

// === impl FakeDns ===

impl FakeDns {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same port over UDP may be taken: try the next.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let addr = tcp.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&state)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&state)));
        Self {
            addr,
            state,
            _tasks: tasks,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the sequence for a name (without final dot) and a type; its count starts anew with the sequence.
    pub fn set(&self, name: &str, kind: u16, replies: impl IntoIterator<Item = Reply>) {
        let mut replies: Vec<Reply> = replies.into_iter().collect();
        replies.reverse();
        let mut state = self.state.lock().unwrap();
        state.script.insert((name.to_lowercase(), kind), replies);
    }

    /// Sets one reply for both types.
    pub fn set_both(&self, name: &str, reply: Reply) {
        self.set(name, A, [reply.clone()]);
        self.set(name, AAAA, [reply]);
    }

    /// How often a name and type were asked, over both transports.
    pub fn asked(&self, name: &str, kind: u16) -> usize {
        self.times(name, kind).len()
    }

    /// When a name and type were asked.
    pub fn times(&self, name: &str, kind: u16) -> Vec<Instant> {
        let state = self.state.lock().unwrap();
        state
            .asked
            .iter()
            .filter(|(_, asked, what)| *what == kind && asked == name)
            .map(|(at, _, _)| *at)
            .collect()
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, state: Arc<Mutex<State>>) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; 4096];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let message = buffer[..len].to_vec();
        let (socket, state) = (Arc::clone(&socket), Arc::clone(&state));
        tasks.spawn(async move {
            let Some((query, mut reply)) = next(&message, &state) else {
                return;
            };
            while let Reply::Delay(by, then) = reply {
                sleep(by).await;
                reply = *then;
            }
            let Some(bytes) = encode(&query, &reply, false) else {
                return;
            };
            if matches!(reply, Reply::WrongSource) {
                let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let _ = other.send_to(&bytes, from).await;
            } else {
                let _ = socket.send_to(&bytes, from).await;
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut tasks = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tasks.spawn(async move {
            while let Ok(len) = stream.read_u16().await {
                let mut message = vec![0; usize::from(len)];
                if stream.read_exact(&mut message).await.is_err() {
                    return;
                }
                let Some((query, mut reply)) = peek(&message, &state) else {
                    return;
                };
                while let Reply::Delay(by, then) = reply {
                    sleep(by).await;
                    reply = *then;
                }
                let reply = match reply {
                    Reply::TruncatedNoTcp => return,
                    Reply::Truncated(then) => *then,
                    other => other,
                };
                if let Some(bytes) = encode(&query, &reply, true) {
                    let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
                    framed.extend(bytes);
                    if stream.write_all(&framed).await.is_err() {
                        return;
                    }
                }
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

/// The reply to a query over UDP; takes it off the sequence unless it is the last.
fn next<'a>(message: &'a [u8], state: &Mutex<State>) -> Option<(Query<'a>, Reply)> {
    let (end, name, kind) = question(message)?;
    let mut state = state.lock().unwrap();
    let nth = state
        .asked
        .iter()
        .filter(|(_, asked, what)| *what == kind && *asked == name)
        .count();
    state.asked.push((Instant::now(), name.clone(), kind));
    let reply = match state.script.get_mut(&(name.clone(), kind)) {
        Some(script) if script.len() > 1 => script.pop()?,
        Some(script) => script.last()?.clone(),
        None => Reply::NxDomain,
    };
    // What comes after a truncated reply comes over TCP, from the same step of the sequence.
    if matches!(
        reply,
        Reply::Truncated(_) | Reply::TruncatedNoTcp | Reply::TruncatedTwice | Reply::Many(_)
    ) {
        state
            .script
            .entry((format!("tcp {name}"), kind))
            .or_default()
            .insert(0, reply.clone());
    }
    let reply = match reply {
        Reply::NoEdns(refusal, then) => match message[10..12] {
            [0, 0] => *then,
            _ => *refusal,
        },
        reply => reply,
    };
    let query = Query {
        message,
        end,
        name,
        kind,
        nth,
    };
    Some((query, reply))
}

/// The reply to a query over TCP: the one that was truncated over UDP, else as over UDP.
fn peek<'a>(message: &'a [u8], state: &Mutex<State>) -> Option<(Query<'a>, Reply)> {
    let (end, name, kind) = question(message)?;
    let waiting = {
        let mut state = state.lock().unwrap();
        let script = state.script.get_mut(&(format!("tcp {name}"), kind));
        script.and_then(Vec::pop)
    };
    let Some(reply) = waiting else {
        return next(message, state);
    };
    let query = Query {
        message,
        end,
        name,
        kind,
        nth: 0,
    };
    Some((query, reply))
}
