//! Names of places to connect to, as somebody typed them: taken apart, or told what they are instead.
//!
//! Owns what is known about names of AWS and Datomic Cloud ([`aws`]) and about the releases' ways in ([`datomic_releases`]).
//! Pure text: nothing is resolved. Settings check with it, recipes are made with it.

use std::net::{IpAddr, Ipv6Addr};

pub mod aws;
pub mod datomic_releases;

use aws::{is_id, is_region};
use datomic_releases::GATEWAY_NOTE;

/// The port of Datomic Cloud's client access.
pub const PORT: u16 = 8182;

/// What a name was given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// `--endpoint HOST:PORT`.
    Endpoint,
    /// `--vpce NAME[:PORT]`.
    Vpce,
}

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name (as typed, without a final dot) or a literal IP (without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a name cannot be what it was given as: a sentence without a final dot that says what it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

const PEER_URI: &str =
    "this is a connection URI of a Datomic peer, not the entry point of a Datomic Cloud system";

type Checked<T> = Result<T, NameError>;

/// Reads `HOST:PORT` (a VPC endpoint's port may be left out) and says what the text is where it cannot be that.
pub fn check_name(kind: NameKind, text: &str) -> Checked<HostPort> {
    written_wrong(text)?;
    let lower = text.to_ascii_lowercase();
    something_else(&lower)?;
    let (host, port) = split(text)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    known_host(&host.to_ascii_lowercase())?;
    let is_vpce = aws::vpce_name(&host.to_ascii_lowercase()).is_some();
    if kind == NameKind::Vpce && !is_vpce {
        return no(format!(
            "`{host}` is not a VPC endpoint's DNS name, which looks like \
             vpce-0123456789abcdef0-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com; \
             give other names as --endpoint HOST:PORT"
        ));
    }
    let port = match port {
        Some(port) => read_port(port)?,
        None if kind == NameKind::Vpce => PORT,
        None => return no(missing_port(host)),
    };
    if port == 8184 && (is_vpce || lower.contains(".datomic.net")) {
        return no(
            "port 8184 is Datomic's HTTP direct, for your own ions; clients connect to port 8182",
        );
    }
    valid_host(host)?;
    Ok(HostPort {
        host: host.to_owned(),
        port,
    })
}

fn no<T>(what: impl Into<String>) -> Checked<T> {
    Err(NameError(what.into()))
}

/// Faults of the writing: characters and forms that no `HOST:PORT` has.
fn written_wrong(text: &str) -> Checked<()> {
    if text.is_empty() {
        return no("the name is empty; give HOST:PORT");
    }
    if text.starts_with("arn:") {
        return no("this is an ARN, the name of a resource; give the DNS name it answers to");
    }
    if text.starts_with("datomic:") {
        return no(PEER_URI);
    }
    if text.contains(['$', '<', '>', '[']) && !text.starts_with('[') || text.contains("{{") {
        return no("there is a placeholder left in the name; put in your system's name and region");
    }
    if text.starts_with('{') {
        return no(
            "this is EDN, not a name; put the client map into a file and give --from-client FILE.edn",
        );
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return no(with_scheme(&scheme.to_ascii_lowercase(), rest));
    }
    if text.contains([',', ';']) {
        return no(
            "these are several names; give --endpoint once for each (in a variable, separated by white space)",
        );
    }
    if text.contains(char::is_whitespace) {
        return no("there is white space in the name");
    }
    if text.contains('@') {
        return no("USER@HOST is an ssh target; entryway connects to HOST:PORT by itself");
    }
    if let Some(place) = text.find(['/', '?', '#']) {
        let (head, tail) = text.split_at(place);
        return no(format!(
            "a TCP endpoint has no path: give `{head}` without `{tail}`"
        ));
    }
    if !text.is_ascii() {
        return no("the name has letters beyond ASCII; give it in its xn-- form");
    }
    if text.bytes().any(|b| b.is_ascii_control()) {
        return no("there are control characters in the name");
    }
    Ok(())
}

fn with_scheme(scheme: &str, rest: &str) -> String {
    let bare = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if bare.to_ascii_lowercase().contains(".execute-api.") {
        return format!("this is {GATEWAY_NOTE}");
    }
    match scheme {
        "http" => format!("an endpoint is HOST:PORT without a scheme: give `{bare}`"),
        "https" => format!(
            "an https URL is a public address (API Gateway or a custom domain), which needs no proxy; Datomic's \
             private port speaks plain HTTP: give HOST:PORT of the entry point, not `{bare}`"
        ),
        "s3" => "this is a bucket in S3, not an entry point of the system".to_owned(),
        "socks" | "socks4" | "socks5" | "socks5h" => {
            "this is a SOCKS proxy; entryway takes its place and connects to the entry point by itself".to_owned()
        }
        other => format!("an endpoint is HOST:PORT without `{other}://`"),
    }
}

/// Things that people have in their clipboard next to the right one.
fn something_else(lower: &str) -> Checked<()> {
    let head = lower.split(':').next().unwrap_or_default();
    if head.ends_with(".edn") {
        return no(format!("this is a file; give --from-client {head}"));
    }
    if head.contains(".execute-api.") {
        return no(format!("this is {GATEWAY_NOTE}"));
    }
    if head.contains("-s3datomic-") || head.contains(".s3.") || head.ends_with(".s3.amazonaws.com")
    {
        return no(
            "this is the system's bucket in S3 (what :s3-auth-path answers), not an entry point",
        );
    }
    if head.starts_with("com.amazonaws.vpce.") || is_id(head, "vpce-svc-") {
        return no(
            "this names the endpoint service; the DNS name of your endpoint onto it stands in the VPC console \
                   under Endpoints, or: aws ec2 describe-vpc-endpoints --query 'VpcEndpoints[].DnsEntries[].DnsName'",
        );
    }
    if is_id(head, "vpce-") {
        return no(format!(
            "this is the endpoint's id, not its DNS name; get that by: aws ec2 describe-vpc-endpoints \
             --vpc-endpoint-ids {head} --query 'VpcEndpoints[].DnsEntries[].DnsName'"
        ));
    }
    for (prefix, what) in [
        ("vpc-", "a VPC"),
        ("subnet-", "a subnet"),
        ("sg-", "a security group"),
        ("eni-", "a network interface"),
        ("i-", "an instance"),
        ("pcx-", "a peering connection"),
    ] {
        if is_id(head, prefix) {
            return no(format!(
                "this is the id of {what}, not a name that can be connected to"
            ));
        }
    }
    Ok(())
}

/// Host and, where there is one, the text of the port.
fn split(text: &str) -> Checked<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, after)) = rest.split_once(']') else {
            return no("the bracket before the IPv6 address is not closed: [ADDRESS]:PORT");
        };
        if host.parse::<Ipv6Addr>().is_err() {
            return no(format!("`{host}` is no IPv6 address"));
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => no(format!("`{after}` after the bracket is no :PORT")),
        };
    }
    match text.matches(':').count() {
        0 if text.bytes().all(|b| b.is_ascii_digit()) => no(format!(
            "`{text}` is only a number; a port needs a host before it: HOST:{text}"
        )),
        0 => Ok((text, None)),
        1 => match text.split_once(':') {
            Some(("", _)) => no("the host before the port is missing"),
            Some((host, port)) => Ok((host, Some(port))),
            None => Ok((text, None)),
        },
        _ if text.parse::<Ipv6Addr>().is_ok() => no(format!(
            "an IPv6 address stands in brackets, and a port behind it: [{text}]:8182"
        )),
        _ => match text.rsplit_once(':') {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => no(format!(
                "an IPv6 address stands in brackets: [{host}]:{port}"
            )),
            _ => no("there are several colons in it; an endpoint is HOST:PORT"),
        },
    }
}

fn read_port(text: &str) -> Checked<u16> {
    match text.parse::<u32>() {
        _ if text.is_empty() => no("the port after the colon is missing; Datomic Cloud's is 8182"),
        Ok(0) => no("port 0 cannot be connected to; Datomic Cloud's port is 8182"),
        Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => match u16::try_from(number) {
            Ok(port) => Ok(port),
            Err(_) => no(format!(
                "port {number} does not exist; the largest is 65535"
            )),
        },
        _ => no(format!("`{text}` is no port number")),
    }
}

fn missing_port(host: &str) -> String {
    if !host.contains(['.', ':']) {
        return format!(
            "`{host}` has no port; if it is the name of a Datomic system, give --peering --system {host} --region \
             REGION, and if it is a host, {host}:8182"
        );
    }
    let shown = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    format!("the port is missing: give `{shown}:8182` (8182 is Datomic Cloud's port)")
}

/// Names that look like the ones AWS and Datomic make, but are not quite. `host` is lower case.
fn known_host(host: &str) -> Checked<()> {
    let labels: Vec<&str> = host.split('.').collect();
    let entry = matches!(labels[0], "entry" | "entry-http");
    if host == "datomic.net" || host.ends_with(".datomic.net") {
        return datomic_net(host, &labels);
    }
    if entry && (labels.len() == 3 && is_region(labels[2]) || host.contains(".datomic.")) {
        return no(format!(
            "a peered entry name ends in datomic.net: {}.datomic.net",
            labels[..labels.len().min(3)].join(".")
        ));
    }
    if let Some((zone, region)) = aws::nlb_zone_and_region(host) {
        let looks_like_a_zone = aws::region_of_zone(zone).is_some();
        if looks_like_a_zone && aws::region_of_zone(zone) != Some(region) {
            return no(format!(
                "the zone {zone} is not in the region {region} of the load balancer's name"
            ));
        }
    }
    if aws::vpce_name(host).is_none()
        && (host.contains(".vpce.") || host.contains("vpce-svc-") || host.starts_with("vpce"))
    {
        return no(not_quite_vpce(host, &labels));
    }
    Ok(())
}

fn datomic_net(host: &str, labels: &[&str]) -> Checked<()> {
    if aws::peered_name(host).is_some() {
        return Ok(());
    }
    let shape = "an entry name is entry-http.SYSTEM.REGION.datomic.net";
    no(match labels[..labels.len() - 2] {
        ["entry" | "entry-http", _, region] => format!("`{region}` is no region; {shape}"),
        ["entry" | "entry-http", _] => format!("the region is missing; {shape}"),
        [system, region] if is_region(region) => format!(
            "this is the hosted zone; the name in it is entry-http.{system}.{region}.datomic.net"
        ),
        _ => format!("no name of this shape leads to a Datomic system; {shape}"),
    })
}

/// Which part of a VPC endpoint's name is wrong.
fn not_quite_vpce(host: &str, labels: &[&str]) -> String {
    let [first, service, region, rest @ ..] = labels else {
        return "a VPC endpoint's name is cut short: it has an endpoint, a service, a region and vpce.amazonaws.com"
            .to_owned();
    };
    if !host.ends_with(".vpce.amazonaws.com") && !host.ends_with(".vpce.amazonaws.com.cn") {
        return "a VPC endpoint's name ends in .vpce.amazonaws.com".to_owned();
    }
    if !is_region(region) || rest.len() > 4 {
        return format!("`{region}` stands where the name has its region, such as us-east-1");
    }
    if !service.starts_with("vpce-svc-") {
        return format!(
            "this is an endpoint of the AWS service {service}; Datomic's is one of an endpoint service, vpce-svc-…"
        );
    }
    if !is_id(service, "vpce-svc-") {
        return format!(
            "`{service}` is no id of an endpoint service: vpce-svc- and 8 to 17 hexadecimal digits"
        );
    }
    let parts: Vec<&str> = first.splitn(4, '-').collect();
    match parts[..] {
        ["vpce", id, ..] if !is_id(&format!("vpce-{id}"), "vpce-") => {
            format!("`vpce-{id}` is no id of an endpoint: vpce- and 8 to 17 hexadecimal digits")
        }
        ["vpce", _] => "the 8 characters after the endpoint's id are missing; copy the whole DNS name from the VPC \
                        console under Endpoints"
            .to_owned(),
        ["vpce", _, _, zone] => format!("the zone {zone} is not in the region {region} of the name"),
        ["vpce", _, suffix] => format!("`{suffix}` is not the 8 characters that follow an endpoint's id"),
        _ => format!("`{first}` is no endpoint: a VPC endpoint's name begins with vpce-"),
    }
}

/// The last check: something that DNS or the kernel can work with.
fn valid_host(host: &str) -> Checked<()> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        let broadcast = ip == IpAddr::from([255, 255, 255, 255]);
        if ip.is_unspecified() || ip.is_multicast() || broadcast {
            return no(format!(
                "{ip} is no address of one machine; it can be listened on or sent to, not connected to"
            ));
        }
        return Ok(());
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return no(format!(
            "`{host}` is no IPv4 address: four numbers up to 255"
        ));
    }
    if host.len() > 253 {
        return no("the name is longer than the 253 characters DNS allows");
    }
    for label in host.split('.') {
        if label.is_empty() {
            return no("there is a dot too many in the name");
        }
        if label.len() > 63 {
            return no(format!(
                "`{label}` is longer than the 63 characters DNS allows between two dots"
            ));
        }
        if let Some(c) = label
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !"-_".contains(*c))
        {
            return no(format!("`{c}` cannot stand in a host's name"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return no(format!(
                "`{label}` begins or ends with a hyphen, which no host's name does"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
