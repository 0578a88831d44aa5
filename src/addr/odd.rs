//! What looks odd about a host that can be connected to: a guess, and therefore never more than a warning.

use super::aws::{self, is_id, is_partition_suffix, is_region, odd_suffix, region_of_zone};
use super::datomic_releases::GATEWAY_NOTE;

/// What looks odd about a host, if anything: a sentence without a final dot.
pub fn oddity(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    let labels: Vec<&str> = host.split('.').collect();
    if host == "datomic.net" || host.ends_with(".datomic.net") {
        return odd_datomic_name(&host, &labels);
    }
    if host.contains(".execute-api.") {
        return Some(format!("this is {GATEWAY_NOTE}"));
    }
    if host.contains("-s3datomic-") || host.contains(".s3.") || host.contains(".s3-") {
        return Some(
            "this is a bucket in S3 (what :s3-auth-path answers), not an entry point".to_owned(),
        );
    }
    // Without datomic.net only a region in the right place shows that an entry name was meant.
    if matches!(labels[..], ["entry" | "entry-http", _, region, ..] if is_region(region)) {
        return Some(format!(
            "a peered entry name ends in datomic.net: {}.datomic.net",
            labels[..3].join(".")
        ));
    }
    if let Some(name) = aws::vpce_name(&host) {
        return odd_suffix(&name.region, &name.suffix);
    }
    if let Some(name) = aws::nlb_name(&host) {
        let region = name.zone.as_deref().map(region_of_zone);
        return match (&name.zone, region) {
            (Some(zone), Some(Some(other))) if other != name.region => Some(format!(
                "the zone {zone} is not in the region {} of the load balancer's name",
                name.region
            )),
            _ => odd_suffix(&name.region, &name.suffix),
        };
    }
    let meant = host.contains("vpce-svc-")
        || labels[0].strip_prefix("vpce-").is_some_and(|rest| {
            rest.len() >= 8 && rest.bytes().take(8).all(|b| b.is_ascii_hexdigit())
        })
        || host
            .split_once(".vpce.")
            .is_some_and(|(_, suffix)| is_partition_suffix(suffix));
    meant.then(|| not_quite_vpce(&host, &labels))
}

fn odd_datomic_name(host: &str, labels: &[&str]) -> Option<String> {
    if aws::entry_name(host).is_some() {
        return None;
    }
    let shape = "an entry name is entry-http.SYSTEM.REGION.datomic.net";
    Some(match labels[..labels.len() - 2] {
        ["entry" | "entry-http", _, region] => format!("`{region}` is no region; {shape}"),
        ["entry" | "entry-http", _] => format!("the region is missing; {shape}"),
        [system, region] if is_region(region) => format!(
            "this is the hosted zone; the name in it is entry-http.{system}.{region}.datomic.net"
        ),
        _ => format!("no name of this shape leads to a Datomic system; {shape}"),
    })
}

/// Which part of a VPC endpoint's name is wrong.
pub(super) fn not_quite_vpce(host: &str, labels: &[&str]) -> String {
    let [first, service, region, ..] = labels else {
        return "a VPC endpoint's name is cut short: it has an endpoint, a service, a region and vpce.amazonaws.com"
            .to_owned();
    };
    let suffix = host.split_once(".vpce.").map(|(_, suffix)| suffix);
    if !suffix.is_some_and(is_partition_suffix) {
        return format!(
            "`{host}` does not end in .vpce.amazonaws.com, as a VPC endpoint's name does"
        );
    }
    if !is_region(region) || labels.get(3) != Some(&"vpce") {
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
