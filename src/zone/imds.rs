//! The zone of an EC2 instance, from its metadata (version 2: a token first).

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::metadata::{LARGEST, MetadataUrl, read_zone};
use crate::addr::aws::is_zone_id;
use crate::http::client::{self, Answer, Bounds, Error, HttpTarget};
use crate::http::{Method, StatusCode};
use crate::types::Zone;

const HOP_LIMIT: &str = "connected, but the request for a token was not answered: inside a container that is the \
    instance's hop limit of 1; `aws ec2 modify-instance-metadata-options --instance-id ID \
    --http-put-response-hop-limit 2` raises it, or set the zone";

/// The zone's name, and its id where the service tells it. Ends by `end`.
pub(super) async fn zone(base: &MetadataUrl, end: Instant) -> Result<(Zone, Option<Zone>), String> {
    connect(base, end).await?;
    let token = token(base, end).await?;
    let path = "/latest/meta-data/placement/availability-zone";
    let id_path = format!("{path}-id");
    let (name, id) = tokio::join!(
        get(base, path, &token, end),
        get(base, &id_path, &token, end)
    );
    let name = read_zone(&text(name)?)?;
    // Old instances know no id; without one, only names can be compared.
    let id = text(id).ok().filter(|id| is_zone_id(id.trim()));
    Ok((name, id.map(|id| Zone::new(id.trim()))))
}

/// Whether there is a metadata service at all: tells a laptop from a container whose answers get lost.
async fn connect(base: &MetadataUrl, end: Instant) -> Result<(), String> {
    let HttpTarget::Tcp(address) = &base.target else {
        return Ok(());
    };
    let half = Instant::now() + end.saturating_duration_since(Instant::now()) / 2;
    match timeout_at(half, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!(
            "connect {address}: {error}; this is no EC2 instance, or it has no metadata"
        )),
        Err(_) => Err(format!(
            "connect {address}: no answer; this is no EC2 instance"
        )),
    }
}

async fn token(base: &MetadataUrl, end: Instant) -> Result<String, String> {
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
    let asked = request(base, Method::PUT, "/latest/api/token", &ttl, end).await;
    let answer = match asked {
        Err(Error::Timeout(..)) => return Err(HOP_LIMIT.to_owned()),
        other => other.map_err(|error| error.to_string())?,
    };
    if answer.status == StatusCode::FORBIDDEN {
        return Err("instance metadata is switched off (403)".to_owned());
    }
    let token = text(Ok(answer))?;
    let token = token.trim();
    if token.is_empty() || token.len() > 1024 || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("answered something else than a token".to_owned());
    }
    Ok(token.to_owned())
}

async fn get(base: &MetadataUrl, path: &str, token: &str, end: Instant) -> Result<Answer, String> {
    let header = [("X-aws-ec2-metadata-token", token)];
    let asked = request(base, Method::GET, path, &header, end).await;
    asked.map_err(|error| error.to_string())
}

async fn request(
    base: &MetadataUrl,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    end: Instant,
) -> Result<Answer, Error> {
    let left = end.saturating_duration_since(Instant::now());
    let bounds = Bounds {
        time: left.max(Duration::from_millis(1)),
        body: LARGEST,
    };
    let path = format!("{}{path}", base.prefix);
    client::request(&base.target, method, &path, headers, bounds).await
}

fn text(answer: Result<Answer, String>) -> Result<String, String> {
    let answer = answer?;
    match answer.status {
        StatusCode::OK => Ok(answer.text()),
        status => Err(format!("answered {status}")),
    }
}
