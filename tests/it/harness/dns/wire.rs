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
    let wire = |name: &str| {
        let mut bytes = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes
    };
    let asked = wire(&query.name);
    let answers = |owner: &[u8], ips: &[IpAddr], ttl: u32| -> Vec<Vec<u8>> {
        ips.iter()
            .filter(|ip| ip.is_ipv4() == (query.kind == A))
            .map(|ip| match ip {
                IpAddr::V4(ip) => record(owner, A, ttl, &ip.octets()),
                IpAddr::V6(ip) => record(owner, AAAA, ttl, &ip.octets()),
            })
            .collect()
    };
    let good: [IpAddr; 2] = ["10.66.66.66".parse().unwrap(), "fd66::66".parse().unwrap()];
    let truncated = || Some(message(query, 0, true, &[]));
    let plain = |records: &[Vec<u8>]| Some(message(query, 0, false, records));
    match reply {
        Reply::Ips(ips, ttl) => plain(&answers(&asked, ips, *ttl)),
        Reply::NoData => plain(&[]),
        Reply::FormErr => Some(message(query, 1, false, &[])),
        Reply::ServFail => Some(message(query, 2, false, &[])),
        Reply::NxDomain => Some(message(query, 3, false, &[])),
        Reply::NotImp => Some(message(query, 4, false, &[])),
        Reply::Refused => Some(message(query, 5, false, &[])),
        Reply::Silence | Reply::Delay(..) => None,
        Reply::Truncated(_) | Reply::TruncatedNoTcp | Reply::TruncatedTwice => truncated(),
        Reply::Garbage => {
            let mut bytes = query.message[..2].to_vec();
            bytes.extend([
                0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0, 0xff, 0xee, 0xdd, 0xcc, 0xbb,
            ]);
            Some(bytes)
        }
        Reply::Short => Some(query.message[..3].to_vec()),
        Reply::Empty => Some(Vec::new()),
        Reply::WrongId => {
            let mut bytes = plain(&answers(&asked, &good, 5))?;
            bytes[0] ^= 0x55;
            Some(bytes)
        }
        Reply::WrongQuestion => {
            let mut bytes = plain(&answers(&asked, &good, 5))?;
            bytes[13] ^= 0x01;
            Some(bytes)
        }
        Reply::WrongSource => plain(&answers(&asked, &good, 5)),
        Reply::WrongOwner => plain(&answers(&wire("evil.test"), &good, 5)),
        Reply::Echo => Some(query.message.to_vec()),
        Reply::LyingCounts => {
            let mut bytes = plain(&answers(&asked, &good, 5))?;
            bytes[6..8].copy_from_slice(&[0xff, 0xff]);
            Some(bytes)
        }
        Reply::BadLength => {
            let mut record = record(&asked, query.kind, 5, &[10, 0, 0, 1]);
            let at = record.len() - 6;
            record[at..at + 2].copy_from_slice(&[0xff, 0xf0]);
            plain(&[record])
        }
        Reply::PointerLoop => {
            // The owner of the first record points at itself.
            let at = u16::try_from(query.end).unwrap() | 0xc000;
            plain(&[record(&at.to_be_bytes(), query.kind, 5, &[10, 0, 0, 1])])
        }
        Reply::Cnames(count, ips, ttl) => {
            let names: Vec<_> = (0..*count).map(|n| wire(&format!("c{n}.test"))).collect();
            let mut owner = asked;
            let mut records = Vec::new();
            for name in names {
                records.push(record(&owner, CNAME, 300, &name));
                owner = name;
            }
            records.extend(answers(&owner, ips, *ttl));
            plain(&records)
        }
        Reply::CnameLoop => plain(&[
            record(&asked, CNAME, 60, &wire("loop.test")),
            record(&wire("loop.test"), CNAME, 60, &asked),
        ]),
        Reply::CnameNowhere => plain(&[record(&asked, CNAME, 60, &wire("nowhere.test"))]),
        Reply::Many(_) if !tcp => truncated(),
        Reply::Many(count) => {
            let ips: Vec<IpAddr> = (0..*count)
                .map(|n| Ipv4Addr::from(0x0a09_0000 + u32::try_from(n).unwrap()).into())
                .collect();
            plain(&answers(&asked, &ips, 5))
        }
        Reply::Rotate(ips, ttl) => plain(&answers(&asked, &[ips[query.nth % ips.len()]], *ttl)),
    }
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
