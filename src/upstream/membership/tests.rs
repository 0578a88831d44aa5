//! Departing, coming back, caps, our own listeners, bad answers.

use super::*;
use crate::upstream::input::{Addresses, LookupError};

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 8182))
}

fn moment(seconds: u64) -> Moment {
    Moment::at(Duration::from_secs(seconds))
}

fn shown(members: &[Membership]) -> String {
    members
        .iter()
        .map(|member| {
            let SocketAddr::V4(v4) = member.socket else {
                unreachable!()
            };
            let mark = if member.in_dns() { "" } else { "-" };
            format!("{}{mark}", v4.ip().octets()[3])
        })
        .collect::<Vec<_>>()
        .join(" ")
}

struct NothingKnown;

impl KnownAddresses for NothingKnown {
    fn is_down(&self, _: SocketAddr) -> bool {
        false
    }

    fn is_new(&self, _: SocketAddr) -> bool {
        true
    }
}

#[test]
fn three_answers_running_without_it_and_it_departs() {
    for (answers, expected) in [
        ("12 12", "1 2"),
        ("12 1 1", "1 2"),
        ("12 1 1 1", "1 2-"),
        ("12 1 1 12 1 1", "1 2"),
        ("12 1 1 1 12", "1 2-"),
        // One at a time, in turn: nobody departs.
        ("1 2 3 1 2 3 1 2 3", "1 2 3"),
        ("12 3 3 3", "1- 2- 3"),
    ] {
        let mut members = Vec::new();
        for answer in answers.split_whitespace() {
            let sockets: Vec<_> = answer.bytes().map(|n| at(n - b'0')).collect();
            merge(
                &mut members,
                &sockets,
                moment(1),
                true,
                false,
                &NothingKnown,
            );
        }
        assert_eq!(shown(&members), expected, "{answers}");
    }
}

/// A changed hosts file: the old address does not keep its connections while it answers.
#[test]
fn what_a_complete_answer_does_not_have_departs_at_once() {
    let mut members = vec![Membership::new(at(1)), Membership::new(at(2))];
    let merged = merge(&mut members, &[at(2)], moment(1), true, true, &NothingKnown);
    assert_eq!(merged.departed, [at(1)]);
    assert_eq!(shown(&members), "1- 2");
}

#[test]
fn back_from_departure_it_must_be_proven() {
    let mut members = vec![Membership::new(at(1)), Membership::new(at(2))];
    for _ in 0..3 {
        merge(
            &mut members,
            &[at(1)],
            moment(1),
            true,
            false,
            &NothingKnown,
        );
    }
    assert_eq!(members[1].departed(), Some(moment(1)));
    assert_eq!(
        merge(
            &mut members,
            &[at(1), at(2)],
            moment(2),
            true,
            false,
            &NothingKnown
        )
        .back,
        [at(2)]
    );
    assert_eq!((members[1].departed(), members[1].in_dns()), (None, false));
    assert!(members[1].proven());
    assert!(members[1].in_dns());
}

#[test]
fn the_cap_holds_and_the_departed_make_room() {
    let many: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let mut members = Vec::new();
    for shift in 0..20 {
        let mut turned = many.clone();
        turned.rotate_left(shift * 7);
        let (fitting, _) = fit(&turned, 8182, &[]);
        merge(
            &mut members,
            &fitting,
            moment(1),
            true,
            false,
            &NothingKnown,
        );
        assert_eq!(members.len(), constants::ADDRESSES);
    }
    assert!(members.iter().all(Membership::in_dns));
    for _ in 0..4 {
        merge(
            &mut members,
            &[at(250)],
            moment(2),
            true,
            false,
            &NothingKnown,
        );
    }
    assert!(members.iter().any(|member| member.socket == at(250)));
    assert_eq!(members.len(), constants::ADDRESSES);
}

/// 200 addresses, all but one of them down: each is tried in its turn, and the living one is found.
#[test]
fn those_that_are_down_give_way_to_ones_never_tried() {
    struct Tried(Vec<SocketAddr>);
    impl KnownAddresses for Tried {
        fn is_down(&self, socket: SocketAddr) -> bool {
            self.0.contains(&socket) && socket != at(199)
        }
        fn is_new(&self, socket: SocketAddr) -> bool {
            !self.0.contains(&socket)
        }
    }
    let many: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    let (fitting, _) = fit(&many, 8182, &[]);
    let (mut members, mut tried) = (Vec::new(), Tried(Vec::new()));
    let mut left_out = Vec::new();
    for _ in 0..4 {
        let merged = merge(&mut members, &fitting, moment(1), true, false, &tried);
        left_out.push(merged.left_out);
        assert_eq!(members.len(), constants::ADDRESSES);
        tried
            .0
            .extend(members.iter().map(|member: &Membership| member.socket));
    }
    assert!(members.iter().any(|member| member.socket == at(199)));
    assert!(left_out.iter().all(|count| *count >= 72), "{left_out:?}");
}

#[test]
fn a_v4_mapped_address_is_the_ipv4_one() {
    let ips: Vec<IpAddr> = ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"]
        .map(|ip| ip.parse().unwrap())
        .to_vec();
    let (fitting, _) = fit(&ips, 8182, &[]);
    assert_eq!(fitting, [at(1), "[fd00::1]:8182".parse().unwrap()]);
}

#[test]
fn our_own_listeners_are_refused_always() {
    let own: Vec<SocketAddr> = ["127.0.0.1:8182", "[::1]:8182", "0.0.0.0:9000"]
        .map(|s| s.parse().unwrap())
        .to_vec();
    for (socket, expected) in [
        ("127.0.0.1:8182", true),
        ("127.0.0.2:8182", false),
        ("127.0.0.1:8183", false),
        ("[::1]:8182", true),
        ("[::ffff:127.0.0.1]:8182", true),
        ("0.0.0.0:8182", true),
        ("[::]:8182", true),
        ("127.0.0.5:9000", true),
        ("10.0.0.1:8182", false),
    ] {
        assert_eq!(is_own(socket.parse().unwrap(), &own), expected, "{socket}");
    }
}

#[test]
fn a_bad_answer_keeps_the_good_one_and_is_told_once_a_minute() {
    let mut name = NameRecord::new("db");
    let answer = |seconds, result| DnsAnswer {
        name: "db".to_owned(),
        at: moment(seconds),
        result,
    };
    let good = Addresses {
        ips: vec![at(1).ip()],
        ttl: Duration::from_secs(5),
        source: AnswerSource::Dns,
        refused: Vec::new(),
    };
    assert_eq!(name.record(&answer(0, Ok(good.clone())), &[]), None);
    assert!(!name.view().stale);
    for (seconds, error, told) in [
        (5, LookupError::NxDomain, true),
        (6, LookupError::NxDomain, false),
        (7, LookupError::Timeout, true),
        (66, LookupError::Timeout, false),
        (67, LookupError::Timeout, true),
    ] {
        assert_eq!(
            name.record(&answer(seconds, Err(error)), &[]).is_some(),
            told,
            "{seconds}"
        );
        assert!(name.view().stale);
        assert_eq!(name.view().addresses, [at(1).ip()]);
    }
    name.record(&answer(70, Ok(good)), &[]);
    assert_eq!(
        (name.view().stale, name.view().last_error.clone()),
        (false, None)
    );
}
