//! The replies of the scripted DNS server, byte by byte.

use std::net::{IpAddr, Ipv4Addr};

use super::{A, AAAA, Query, Reply};

const CNAME: u16 = 5;

/// End of the question section, its name in lower case, its type.
pub(super) fn question(message: &[u8]) -> Option<(usize, String, u16)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + len)?).to_lowercase());
        at += len;
    }
    let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
    message.get(at + 3)?;
    Some((at + 4, labels.join("."), kind))
}

/// The bytes of a reply; none for silence.
pub(super) fn encode(query: &Query<'_>, reply: &Reply, tcp: bool) -> Option<Vec<u8>> {
    let asked = wire(&query.name);
    let code = |rcode| Some(message(query, rcode, false, &[]));
    let truncated = || Some(message(query, 0, true, &[]));
    let plain = |records: &[Vec<u8>]| Some(message(query, 0, false, records));
    match reply {
        Reply::Ips(ips, ttl) => plain(&answers(query, &asked, ips, *ttl)),
        Reply::NoData => code(0),
        Reply::FormErr => code(1),
        Reply::ServFail => code(2),
        Reply::NxDomain => code(3),
        Reply::NotImp => code(4),
        Reply::Refused => code(5),
        Reply::Silence | Reply::Delay(..) | Reply::NoEdns(..) => None,
        Reply::BadVers => {
            let mut bytes = message(query, 0, false, &[]);
            // One additional record: an OPT with the upper bits of the code in its TTL.
            bytes[11] = 1;
            bytes.extend([0, 0, 41, 0x04, 0xd0, 1, 0, 0, 0, 0, 0]);
            Some(bytes)
        }
        Reply::Truncated(_) | Reply::TruncatedNoTcp | Reply::TruncatedTwice => truncated(),
        Reply::Many(_) if !tcp => truncated(),
        Reply::Many(count) => {
            let ips: Vec<IpAddr> = (0..*count)
                .map(|n| Ipv4Addr::from(0x0a09_0000 + u32::try_from(n).unwrap()).into())
                .collect();
            plain(&answers(query, &asked, &ips, 5))
        }
        Reply::Rotate(ips, ttl) => {
            plain(&answers(query, &asked, &[ips[query.nth % ips.len()]], *ttl))
        }
        Reply::Cnames(count, ips, ttl) => {
            let mut owner = asked;
            let mut records = Vec::new();
            for name in (0..*count).map(|n| wire(&format!("c{n}.test"))) {
                records.push(record(&owner, CNAME, 300, &name));
                owner = name;
            }
            records.extend(answers(query, &owner, ips, *ttl));
            plain(&records)
        }
        Reply::CnameLoop => plain(&[
            record(&asked, CNAME, 60, &wire("loop.test")),
            record(&wire("loop.test"), CNAME, 60, &asked),
        ]),
        Reply::CnameNowhere => plain(&[record(&asked, CNAME, 60, &wire("nowhere.test"))]),
        forged => Some(forge(query, forged)),
    }
}

/// Replies that no server means.
fn forge(query: &Query<'_>, reply: &Reply) -> Vec<u8> {
    let asked = wire(&query.name);
    let ips: [IpAddr; 2] = ["10.66.66.66".parse().unwrap(), "fd66::66".parse().unwrap()];
    let mut good = message(query, 0, false, &answers(query, &asked, &ips, 5));
    match reply {
        Reply::Garbage => {
            let mut bytes = query.message[..2].to_vec();
            bytes.extend([0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0, 0xff, 0xee, 0xdd, 0xcc]);
            return bytes;
        }
        Reply::Short => return query.message[..3].to_vec(),
        Reply::Empty => return Vec::new(),
        Reply::Echo => return query.message.to_vec(),
        Reply::WrongId => good[0] ^= 0x55,
        Reply::WrongQuestion => good[13] ^= 0x01,
        Reply::WrongOpcode => good[2] |= 5 << 3,
        Reply::WrongClass => good[query.end - 1] = 3,
        Reply::WrongRecordClass => {
            let mut records = answers(query, &asked, &ips, 5);
            for record in &mut records {
                record[asked.len() + 3] = 3;
            }
            return message(query, 0, false, &records);
        }
        Reply::LyingCounts => good[6..8].copy_from_slice(&[0xff, 0xff]),
        Reply::WrongOwner => {
            return message(
                query,
                0,
                false,
                &answers(query, &wire("evil.test"), &ips, 5),
            );
        }
        Reply::BadLength => {
            let mut record = record(&asked, query.kind, 5, &[10, 0, 0, 1]);
            let at = record.len() - 6;
            record[at..at + 2].copy_from_slice(&[0xff, 0xf0]);
            return message(query, 0, false, &[record]);
        }
        Reply::PointerLoop => {
            // The owner of the first record points at itself.
            let at = u16::try_from(query.end).unwrap() | 0xc000;
            let record = record(&at.to_be_bytes(), query.kind, 5, &[10, 0, 0, 1]);
            return message(query, 0, false, &[record]);
        }
        // Only the port it comes from is wrong.
        _ => {}
    }
    good
}

/// A name on the wire.
fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// Records for the addresses of the asked type.
fn answers(query: &Query<'_>, owner: &[u8], ips: &[IpAddr], ttl: u32) -> Vec<Vec<u8>> {
    ips.iter()
        .filter(|ip| ip.is_ipv4() == (query.kind == A))
        .map(|ip| match ip {
            IpAddr::V4(ip) => record(owner, A, ttl, &ip.octets()),
            IpAddr::V6(ip) => record(owner, AAAA, ttl, &ip.octets()),
        })
        .collect()
}

fn message(query: &Query<'_>, rcode: u8, truncated: bool, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = query.message[..2].to_vec();
    bytes.extend([0x81 | if truncated { 0x02 } else { 0 }, 0x80 | rcode]);
    let count = u16::try_from(records.len()).unwrap().to_be_bytes();
    bytes.extend([0, 1, count[0], count[1], 0, 0, 0, 0]);
    bytes.extend(&query.message[12..query.end]);
    bytes.extend(records.concat());
    bytes
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}
