//! How DNS answers become the set of addresses of an endpoint.
//!
//! Only an answer with addresses changes the set, a rotating answer does not make it flap, and our own listeners are never
//! in it. [`NameRecord`] is what is known of one name, [`Membership`] one endpoint's hold on one address. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::addr::is_own_listener;
use crate::clock::Moment;
use crate::sys::local_address::is_local_address;
use crate::upstream::constants;
use crate::upstream::input::{AnswerSource, DnsAnswer};
use crate::upstream::snapshot::NameView;

/// One endpoint's hold on one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub socket: SocketAddr,
    /// Consecutive answers without it.
    missed: u32,
    /// When it departed.
    departed: Option<Moment>,
    /// It is answered again, but was not proven since it departed.
    unproven: bool,
    /// Consecutive answers of the regional name without it: a zonal shift, which counts in rank only.
    shifted: u32,
}

/// What a merge changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// New in the set.
    pub added: Vec<SocketAddr>,
    /// Departed with this answer.
    pub departed: Vec<SocketAddr>,
    /// Departed before, and answered again.
    pub back: Vec<SocketAddr>,
    /// Gave way to others: no more than so many addresses are kept.
    pub removed: Vec<SocketAddr>,
    /// Answered, but not kept for want of room.
    pub left_out: usize,
}

/// The record of one name.
#[derive(Clone, Debug)]
pub struct NameRecord {
    view: NameView,
    /// When its last error was reported, and which it was.
    told: Option<(Moment, String)>,
}

/// The same error of a name is reported this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

// === impl Membership ===

impl Membership {
    pub fn new(socket: SocketAddr) -> Self {
        Self {
            socket,
            missed: 0,
            departed: None,
            unproven: false,
            shifted: 0,
        }
    }

    /// Whether it is ranked as present.
    pub fn in_dns(&self) -> bool {
        self.departed.is_none() && self.shifted < constants::MISSED_ANSWERS
    }

    /// When it departed; `None` while it is answered, also when that is not proven yet.
    pub fn departed(&self) -> Option<Moment> {
        self.departed.filter(|_| !self.unproven)
    }

    /// It answered a probe: if it was departed and is answered again, it is present now. Says whether that is new.
    pub fn proven(&mut self) -> bool {
        let news = self.unproven;
        if news {
            self.unproven = false;
            self.departed = None;
        }
        news
    }

    /// The regional name answered, with it or without.
    pub fn regional(&mut self, with_it: bool) {
        self.shifted = if with_it {
            0
        } else {
            self.shifted.saturating_add(1)
        };
    }
}

/// What the merge asks about addresses.
pub trait KnownAddresses {
    /// Whether an address is down, so that one that was never tried may take its place.
    fn is_down(&self, socket: SocketAddr) -> bool;
    /// Whether an address was never tried.
    fn is_new(&self, socket: SocketAddr) -> bool;
}

/// Lets a good answer change an endpoint's hold. `probes` off: nothing needs to be proven. `is_complete`: what the
/// answer does not have departs at once.
pub fn merge(
    members: &mut Vec<Membership>,
    answer: &[SocketAddr],
    now: Moment,
    probes: bool,
    is_complete: bool,
    known: &impl KnownAddresses,
) -> Merged {
    let mut merged = Merged::default();
    for member in members.iter_mut() {
        if answer.contains(&member.socket) {
            member.missed = 0;
            if member.departed.is_some() && !member.unproven {
                member.unproven = true;
                merged.back.push(member.socket);
                if !probes {
                    member.proven();
                }
            }
        } else {
            // A hosts file says all there is; DNS may answer with some of its addresses in turn.
            let missed = member.missed.saturating_add(1);
            member.missed = if is_complete {
                missed.max(constants::MISSED_ANSWERS)
            } else {
                missed
            };
            if member.missed >= constants::MISSED_ANSWERS
                && (member.departed.is_none() || member.unproven)
            {
                member.unproven = false;
                member.departed = Some(now);
                merged.departed.push(member.socket);
            }
        }
    }
    // Those never tried first: when there are more than fit, one known to be down makes room for them.
    let (new, tried): (Vec<SocketAddr>, Vec<SocketAddr>) =
        answer.iter().partition(|socket| known.is_new(**socket));
    for socket in new.into_iter().chain(tried) {
        if members.iter().any(|member| member.socket == socket) {
            continue;
        }
        if members.len() >= constants::ADDRESSES {
            let departed = members
                .iter()
                .position(|member| member.departed().is_some());
            let down = || {
                let down = |member: &Membership| known.is_down(member.socket);
                members
                    .iter()
                    .position(down)
                    .filter(|_| known.is_new(socket))
            };
            match departed.or_else(down) {
                Some(index) => merged.removed.push(members.remove(index).socket),
                None => {
                    merged.left_out += 1;
                    continue;
                }
            }
        }
        members.push(Membership::new(socket));
        merged.added.push(socket);
    }
    merged
}

/// The addresses of an answer that may enter the set (v4-mapped ones as IPv4), and those that are our own listeners.
pub fn fit(ips: &[IpAddr], port: u16, own: &[SocketAddr]) -> (Vec<SocketAddr>, Vec<IpAddr>) {
    let mut fitting: Vec<SocketAddr> = Vec::new();
    let mut refused = Vec::new();
    for ip in ips {
        let socket = SocketAddr::new(ip.to_canonical(), port);
        if is_own(socket, own) {
            refused.push(*ip);
        } else if !fitting.contains(&socket) {
            fitting.push(socket);
        }
    }
    (fitting, refused)
}

/// Whether a connect to this address would reach one of our own listeners.
pub fn is_own(socket: SocketAddr, own: &[SocketAddr]) -> bool {
    is_own_listener(socket, own, is_local_address)
}

// === impl NameRecord ===

impl NameRecord {
    /// Not answered yet.
    pub fn new(name: &str) -> Self {
        Self {
            view: NameView {
                name: name.to_owned(),
                addresses: Vec::new(),
                ttl: Duration::ZERO,
                answered: None,
                source: None,
                stale: false,
                last_error: None,
                last_change: None,
                candidate: false,
            },
            told: None,
        }
    }

    pub fn view(&self) -> &NameView {
        &self.view
    }

    /// Its record; the upstream says whether it is a candidate.
    pub fn view_as(&self, candidate: bool) -> NameView {
        NameView {
            candidate,
            ..self.view.clone()
        }
    }

    /// A lookup has ended; `refused` are our own listeners among its addresses. Gives the error to tell now, if any.
    pub fn record(&mut self, answer: &DnsAnswer, refused: &[IpAddr]) -> Option<String> {
        let list = |ips: &[IpAddr]| ips.iter().map(|ip| format!(" {ip}")).collect::<String>();
        let error = match &answer.result {
            Ok(got) => {
                let usable: Vec<IpAddr> = got
                    .ips
                    .iter()
                    .filter(|ip| !refused.contains(ip))
                    .copied()
                    .collect();
                if !usable.is_empty() {
                    self.view.addresses = usable;
                    self.view.ttl = got.ttl;
                    self.view.answered = Some(answer.at);
                    self.view.source = Some(got.source);
                }
                self.view.stale = self.view.addresses.is_empty()
                    || !refused.is_empty() && got.ips.len() == refused.len();
                if !refused.is_empty() {
                    Some(format!(
                        "refused, this is our own listener:{}",
                        list(refused)
                    ))
                } else if !got.refused.is_empty() {
                    Some(format!(
                        "refused, local addresses from DNS (--allow-local-answers takes them):{}",
                        list(&got.refused)
                    ))
                } else {
                    None
                }
            }
            Err(none) => {
                self.view.stale = true;
                Some(none.to_string())
            }
        };
        self.view.last_error = error.clone();
        let Some(error) = error else {
            self.told = None;
            return None;
        };
        let address_state = self
            .told
            .as_ref()
            .is_some_and(|(at, told)| *told == error && answer.at.since(*at) < TELL_EVERY);
        if address_state {
            return None;
        }
        self.told = Some((answer.at, error.clone()));
        Some(error)
    }

    /// The set has changed.
    pub fn changed(&mut self, now: Moment) {
        self.view.last_change = Some(now);
    }

    /// Whether it was ever answered by DNS, rather than by the hosts file or being literal.
    pub fn from_dns(&self) -> bool {
        self.view.source == Some(AnswerSource::Dns)
    }
}

#[cfg(test)]
mod tests;
