//! Names as AWS and Datomic Cloud make them, taken apart and put together.
//!
//! Regions, zones and partitions are recognised by their shape, because AWS adds new ones; the lists here serve only
//! to say that a name looks odd. All functions expect lower-case hosts without a final dot.

/// The letters of zones for which names are derived; those that do not resolve are no endpoints.
pub const ZONE_LETTERS: [char; 6] = ['a', 'b', 'c', 'd', 'e', 'f'];

/// The DNS suffix of each partition beside the commercial one, and how its regions begin.
const PARTITIONS: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("us-isof-", "csp.hci.ic.gov"),
];

/// The suffix of the commercial partition and of GovCloud.
const COMMERCIAL: &str = "amazonaws.com";

/// A VPC endpoint's DNS name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpceName {
    /// `vpce-0abc…-s7g7d18a`: the endpoint's id and the suffix that AWS adds.
    pub id: String,
    /// The zone of a zonal name.
    pub zone: Option<String>,
    /// `vpce-svc-…`.
    pub service: String,
    /// The region of the endpoint service.
    pub region: String,
    /// What follows `.vpce.`: the suffix of the partition.
    pub suffix: String,
}

/// A network load balancer's DNS name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NlbName {
    /// The zone of a zonal name.
    pub zone: Option<String>,
    /// Name and hash of the load balancer.
    pub name: String,
    pub region: String,
    /// The suffix of the partition.
    pub suffix: String,
}

/// An entry name below `datomic.net`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// Whether it is `entry-http.…` (current releases) or `entry.…` (older ones).
    pub http: bool,
    /// The name of the system or of one of its query groups; the name does not say which.
    pub group: String,
    pub region: String,
}

/// Whether the text has the shape of a region: `us-east-1`, `us-gov-west-1`, `eusc-de-east-1`.
pub fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let Some((number, words)) = parts.split_last() else {
        return false;
    };
    (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
        && (2..=4).contains(&words.len())
        && words[0].len() <= 4
        && words
            .iter()
            .all(|word| word.len() >= 2 && word.bytes().all(|b| b.is_ascii_lowercase()))
}

/// The region of a zone: `us-east-1a`, the Local Zone `us-west-2-lax-1a`, the Wavelength Zone
/// `us-east-1-wl1-bos-wlz-1`. `None` where the text has no such shape.
pub fn region_of_zone(zone: &str) -> Option<&str> {
    let regular = zone.strip_suffix(|c: char| c.is_ascii_lowercase());
    if let Some(region) = regular.filter(|region| is_region(region)) {
        return Some(region);
    }
    let (end, _) = zone
        .match_indices('-')
        .find(|(index, _)| is_region(&zone[..*index]))?;
    let place = &zone[end + 1..];
    let last = place.rsplit('-').next().unwrap_or_default();
    let number = last.strip_suffix(|c: char| c.is_ascii_lowercase());
    let number = number.unwrap_or(last);
    let plain = place.split('-').all(|word| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    (plain
        && place.contains('-')
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit()))
    .then(|| &zone[..end])
}

/// Whether the text is a zone's id, which means the same zone in every account: `use1-az1`, `usw2-lax1-az1`,
/// `use1-wl1-bos-wlz1`.
pub fn is_zone_id(text: &str) -> bool {
    let bare = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let region = bare.strip_suffix("-az").or(bare.strip_suffix("-wlz"));
    bare.len() < text.len()
        && region.is_some_and(|region| {
            region.len() >= 4
                && region.starts_with(|c: char| c.is_ascii_lowercase())
                && region
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// The DNS suffix of a region's partition.
fn suffix_of(region: &str) -> &'static str {
    PARTITIONS
        .iter()
        .find(|(start, _)| region.starts_with(start))
        .map_or(COMMERCIAL, |(_, suffix)| suffix)
}

/// Whether names of AWS end so.
pub(super) fn is_partition_suffix(suffix: &str) -> bool {
    suffix == COMMERCIAL || PARTITIONS.iter().any(|(_, known)| *known == suffix)
}

/// What is odd about the suffix of a region's names, if anything: a sentence without a final dot.
pub(super) fn odd_suffix(region: &str, suffix: &str) -> Option<String> {
    let usual = suffix_of(region);
    (suffix != usual).then(|| format!("names of the region {region} usually end in {usual}"))
}

/// Why this cannot be the name of a Datomic system or query group, if so: a sentence without a final dot.
pub fn invalid_system(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let shown = text.escape_debug();
    match entry_name(&text.to_ascii_lowercase()) {
        Some(name) => Some(format!(
            "`{shown}` is an entry name; the system's name in it is {}",
            name.group
        )),
        None if text.is_empty() => Some("the system's name is empty".to_owned()),
        None if text.len() > 63 || !text.bytes().all(plain) => Some(format!(
            "`{shown}` cannot be the name of a Datomic system: letters, digits and hyphens only"
        )),
        None if text.starts_with('-') || text.ends_with('-') => Some(format!(
            "`{shown}` begins or ends with a hyphen, which no system's name does"
        )),
        None => None,
    }
}

/// Why this is no region, if so: a sentence without a final dot.
pub fn invalid_region(text: &str) -> Option<String> {
    let shown = text.escape_debug();
    match region_of_zone(text) {
        _ if is_region(text) => None,
        Some(region) => Some(format!("`{shown}` is a zone; its region is {region}")),
        None => Some(format!(
            "`{shown}` is no AWS region, which looks like us-east-1"
        )),
    }
}

/// Takes a VPC endpoint's name apart; `None` where it does not have exactly that shape.
pub fn vpce_name(host: &str) -> Option<VpceName> {
    let (rest, suffix) = host.split_once(".vpce.")?;
    let [first, service, region] = rest.split('.').collect::<Vec<_>>()[..] else {
        return None;
    };
    if !is_region(region) || !is_id(service, "vpce-svc-") {
        return None;
    }
    let mut parts = first.splitn(4, '-');
    let (word, id, hash) = (parts.next()?, parts.next()?, parts.next()?);
    let zone = parts.next();
    let plain = hash.len() >= 8 && hash.bytes().all(|b| b.is_ascii_alphanumeric());
    if word != "vpce" || !is_id(&format!("vpce-{id}"), "vpce-") || !plain {
        return None;
    }
    if zone.is_some_and(|zone| region_of_zone(zone) != Some(region)) {
        return None;
    }
    Some(VpceName {
        id: format!("vpce-{id}-{hash}"),
        zone: zone.map(str::to_owned),
        service: service.to_owned(),
        region: region.to_owned(),
        suffix: suffix.to_owned(),
    })
}

/// Whether the text is `prefix` and the hexadecimal digits of an AWS id.
pub fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|digits| {
        (8..=17).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Takes `entry-http.GROUP.REGION.datomic.net` or `entry.…` apart.
pub fn entry_name(host: &str) -> Option<EntryName> {
    let labels: Vec<&str> = host.strip_suffix(".datomic.net")?.split('.').collect();
    let [entry, group, region] = labels[..] else {
        return None;
    };
    let http = match entry {
        "entry-http" => true,
        "entry" => false,
        _ => return None,
    };
    is_region(region).then(|| EntryName {
        http,
        group: group.to_owned(),
        region: region.to_owned(),
    })
}

/// Takes `[ZONE.]NAME.elb.REGION.SUFFIX` apart. The zone of a zonal name is what stands where it should.
pub fn nlb_name(host: &str) -> Option<NlbName> {
    let (front, rest) = host.split_once(".elb.")?;
    let (region, suffix) = rest.split_once('.')?;
    let (zone, name) = match front.split_once('.') {
        Some((zone, name)) => (Some(zone), name),
        None => (None, front),
    };
    let plain = !name.contains('.') && !name.is_empty() && suffix.contains('.');
    (plain && is_region(region)).then(|| NlbName {
        zone: zone.map(str::to_owned),
        name: name.to_owned(),
        region: region.to_owned(),
        suffix: suffix.to_owned(),
    })
}

/// Whether the name is one of an application or classic load balancer: `NAME.REGION.elb.SUFFIX`.
pub fn is_alb_name(host: &str) -> bool {
    host.split_once(".elb.").is_some_and(|(front, suffix)| {
        is_partition_suffix(suffix)
            && front
                .rsplit_once('.')
                .is_some_and(|(name, region)| !name.is_empty() && is_region(region))
    })
}

/// The zone of a VPC endpoint's or a network load balancer's zonal name.
pub fn zone_of(host: &str) -> Option<String> {
    if let Some(name) = vpce_name(host) {
        return name.zone;
    }
    let name = nlb_name(host)?;
    name.zone
        .filter(|zone| region_of_zone(zone) == Some(&name.region))
}

/// The region that a host's name contains.
pub fn region_of(host: &str) -> Option<String> {
    vpce_name(host)
        .map(|name| name.region)
        .or_else(|| entry_name(host).map(|name| name.region))
        .or_else(|| nlb_name(host).map(|name| name.region))
}

// === impl VpceName ===

impl VpceName {
    /// The name without a zone.
    pub fn regional(&self) -> String {
        self.with_label(&self.id)
    }

    /// The name of one zone.
    pub fn zonal(&self, zone: &str) -> String {
        self.with_label(&format!("{}-{zone}", self.id))
    }

    fn with_label(&self, first: &str) -> String {
        format!(
            "{first}.{}.{}.vpce.{}",
            self.service, self.region, self.suffix
        )
    }
}

// === impl NlbName ===

impl NlbName {
    /// The name without a zone.
    pub fn regional(&self) -> String {
        format!("{}.elb.{}.{}", self.name, self.region, self.suffix)
    }

    /// The name of one zone.
    pub fn zonal(&self, zone: &str) -> String {
        format!("{zone}.{}", self.regional())
    }
}

// === impl EntryName ===

impl EntryName {
    /// The name of current releases, then the older one.
    pub fn both(group: &str, region: &str) -> [String; 2] {
        ["entry-http", "entry"].map(|entry| format!("{entry}.{group}.{region}.datomic.net"))
    }
}
