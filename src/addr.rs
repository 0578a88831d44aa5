//! Names and addresses to connect to, as a user typed them: parsed, or explained where they are something else.
//!
//! A text that cannot be a `HOST:PORT` is an error whose sentence says what it seems to be. A host that can be
//! connected to but looks odd is never refused, because the user may know better: [`oddity`] gives the warning.
//! [`aws`] knows the shapes of names of AWS and Datomic Cloud, [`datomic_releases`] which way in a release has.
//! Pure text: nothing is resolved here.

use std::net::{IpAddr, Ipv6Addr};

pub mod aws;
pub mod datomic_releases;
mod odd;
mod own_listener;

use aws::{NlbName, VpceName, is_id};
use datomic_releases::GATEWAY_NOTE;
pub use odd::oddity;
pub use own_listener::is_own_listener;

/// The port of Datomic Cloud's client access.
pub const PORT: u16 = 8182;
/// The port of Datomic Cloud's HTTP direct: web services of the user's own ions.
pub const HTTP_DIRECT_PORT: u16 = 8184;

/// A host and a port to connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A DNS name (as typed, without a final dot) or a literal IP (without brackets; IPv4-mapped ones as IPv4).
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why a text cannot be what it was given as: a sentence without a final dot that says what it seems to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

const PEER_URI: &str =
    "this is a connection URI of a Datomic peer, not the entry point of a Datomic Cloud system";

type Checked<T> = Result<T, NameError>;

/// Parses `HOST:PORT`.
pub fn parse_endpoint(text: &str) -> Checked<HostPort> {
    parse(text, None)
}

/// Parses the name of a VPC endpoint, `NAME[:PORT]`.
pub fn parse_vpce(text: &str) -> Checked<(HostPort, VpceName)> {
    let parsed = parse(text, Some(PORT))?;
    let host = parsed.host.to_ascii_lowercase();
    match aws::vpce_name(&host) {
        Some(name) => Ok((parsed, name)),
        None if host.starts_with("vpce") || host.contains(".vpce.") => no(odd::not_quite_vpce(
            &host,
            &host.split('.').collect::<Vec<_>>(),
        )),
        None => no(format!(
            "`{host}` is not a VPC endpoint's DNS name, which looks like \
             vpce-0123456789abcdef0-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com; \
             give other names as --endpoint HOST:PORT"
        )),
    }
}

/// Parses the name of a network load balancer, `NAME[:PORT]`.
pub fn parse_nlb(text: &str) -> Checked<(HostPort, NlbName)> {
    let parsed = parse(text, Some(PORT))?;
    let host = parsed.host.to_ascii_lowercase();
    match aws::nlb_name(&host) {
        Some(name) => Ok((parsed, name)),
        None if aws::is_alb_name(&host) => no(format!(
            "`{host}` is an application load balancer, which has no names of zones; give --endpoint {host}:{}",
            parsed.port
        )),
        None => no(format!(
            "`{host}` is not a network load balancer's DNS name, which looks like \
             NAME-0123456789abcdef.elb.us-east-1.amazonaws.com; give other names as --endpoint HOST:PORT"
        )),
    }
}

fn parse(text: &str, default_port: Option<u16>) -> Checked<HostPort> {
    let (host, port) = parse_host_maybe_port(text)?;
    match port.or(default_port) {
        Some(port) => Ok(HostPort { host, port }),
        None => no(missing_port(&host)),
    }
}

/// Parses `HOST[:PORT]`.
pub fn parse_host_maybe_port(text: &str) -> Checked<(String, Option<u16>)> {
    check_writing(text)?;
    check_kind(&text.to_ascii_lowercase())?;
    let (host, port) = split(text)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let port = port.map(read_port).transpose()?;
    check_host(host)?;
    let host = match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().to_string(),
        Err(_) => host.to_owned(),
    };
    Ok((host, port))
}

fn no<T>(what: impl Into<String>) -> Checked<T> {
    Err(NameError(what.into()))
}

/// Faults of the writing: characters and forms that no `HOST:PORT` has.
fn check_writing(text: &str) -> Checked<()> {
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
    if let Some(index) = text.find(['/', '?', '#']) {
        let (head, tail) = text.split_at(index);
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
    let lower = bare.to_ascii_lowercase();
    if lower.contains(".execute-api.") {
        return format!("this is {GATEWAY_NOTE}");
    }
    let host = lower.split(':').next().unwrap_or_default();
    let with_port = match bare.contains(':') {
        true => bare.to_owned(),
        false => format!("{bare}:{PORT}"),
    };
    let is_private = aws::vpce_name(host).is_some()
        || aws::entry_name(host).is_some()
        || aws::nlb_name(host).is_some();
    match scheme {
        "http" => format!("an endpoint is HOST:PORT without a scheme: give `{with_port}`"),
        "https" if is_private => format!(
            "leave out https:// (Datomic's private port speaks plain HTTP, and entryway wants no scheme): give \
             `{with_port}`"
        ),
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

/// Things that people have in their clipboard next to the right one, and that no host is called.
fn check_kind(lower: &str) -> Checked<()> {
    let head = lower.split(':').next().unwrap_or_default();
    if lower.ends_with(".edn") || lower.contains(".edn#") {
        return no(format!("this is a file; give --from-client {lower}"));
    }
    if !lower.contains(':') && head.contains(".execute-api.") {
        return no(format!("this is {GATEWAY_NOTE}"));
    }
    if !lower.contains(':') && head.contains("-s3datomic-") {
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
        _ if text.parse::<Ipv6Addr>().is_ok() => {
            let meant = text.rsplit_once(':').filter(|(host, port)| {
                host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            let meant =
                meant.map(|(host, port)| format!("; if {port} is the port, [{host}]:{port}"));
            no(format!(
                "an IPv6 address stands in brackets, and a port behind it: [{text}]:8182{}",
                meant.unwrap_or_default()
            ))
        }
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

/// The last check: whether DNS or the kernel can work with it.
fn check_host(host: &str) -> Checked<()> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        let broadcast = ip == IpAddr::from([255, 255, 255, 255]);
        if ip.is_unspecified() || ip.is_multicast() || broadcast {
            return no(format!(
                "{ip} is not the address of one machine; it can be listened on or sent to, not connected to"
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
            return no("there is an extra dot in the name");
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
