//! Names as AWS and Datomic Cloud make them: taken apart and put together.

/// The letters of zones that are tried; candidates that do not answer are no endpoints.
pub const LETTERS: [char; 6] = ['a', 'b', 'c', 'd', 'e', 'f'];

/// A VPC endpoint's DNS name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpceName {
    /// `vpce-0abc…-s7g7d18a`: the endpoint's id and its suffix.
    pub id: String,
    /// The zone of a zonal name.
    pub zone: Option<String>,
    /// `vpce-svc-…`.
    pub service: String,
    /// The region of the endpoint service.
    pub region: String,
    /// `amazonaws.com`, in China `amazonaws.com.cn`.
    pub domain: String,
}

/// A name under `datomic.net`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeeredName {
    /// Whether it is `entry-http.…` (current) or `entry.…` (older).
    pub http: bool,
    /// The system's (or query group's stack's) name.
    pub system: String,
    /// The region.
    pub region: String,
}

/// Whether the text has the shape of a region's name: `us-east-1`, `ap-southeast-2`, `us-gov-west-1`.
pub fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let Some((number, words)) = parts.split_last() else {
        return false;
    };
    let lower = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase());
    (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
        && (2..=4).contains(&words.len())
        && words[0].len() == 2
        && words.iter().all(|word| word.len() >= 2 && lower(word))
}

/// The region of a zone's name, if it has the shape of one: `us-east-1a`.
pub fn region_of_zone(zone: &str) -> Option<&str> {
    let region = zone.strip_suffix(|c: char| c.is_ascii_lowercase())?;
    is_region(region).then_some(region)
}

/// Why this cannot be the name of a Datomic system, if so: a sentence without a final dot.
pub fn wrong_system(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let shown = text.escape_debug();
    match peered_name(text) {
        Some(name) => Some(format!(
            "`{shown}` is an entry name; the system's name in it is {}",
            name.system
        )),
        None if text.is_empty() => Some("the system's name is empty".to_owned()),
        None if text.len() > 63 || !text.bytes().all(plain) => Some(format!(
            "`{shown}` cannot be the name of a Datomic system: letters, digits and hyphens only"
        )),
        None => None,
    }
}

/// Why this is no region, if so: a sentence without a final dot.
pub fn wrong_region(text: &str) -> Option<String> {
    let shown = text.escape_debug();
    match region_of_zone(text) {
        _ if is_region(text) => None,
        Some(region) => Some(format!("`{shown}` is a zone; its region is {region}")),
        None => Some(format!(
            "`{shown}` is no AWS region, which looks like us-east-1"
        )),
    }
}

/// Takes a VPC endpoint's name apart; `None` where it does not have exactly that shape (a lower-case host).
pub fn vpce_name(host: &str) -> Option<VpceName> {
    let (rest, domain) = match host.strip_suffix(".vpce.amazonaws.com") {
        Some(rest) => (rest, "amazonaws.com"),
        None => (
            host.strip_suffix(".vpce.amazonaws.com.cn")?,
            "amazonaws.com.cn",
        ),
    };
    let mut labels = rest.split('.');
    let (first, service, region) = (labels.next()?, labels.next()?, labels.next()?);
    if labels.next().is_some() || !is_region(region) || !is_id(service, "vpce-svc-") {
        return None;
    }
    let mut parts = first.splitn(4, '-');
    let (word, id, suffix) = (parts.next()?, parts.next()?, parts.next()?);
    let zone = parts.next();
    let plain = |part: &str| part.len() >= 8 && part.bytes().all(|b| b.is_ascii_alphanumeric());
    if word != "vpce" || !is_id(&format!("vpce-{id}"), "vpce-") || !plain(suffix) {
        return None;
    }
    if zone.is_some_and(|zone| region_of_zone(zone) != Some(region)) {
        return None;
    }
    Some(VpceName {
        id: format!("vpce-{id}-{suffix}"),
        zone: zone.map(str::to_owned),
        service: service.to_owned(),
        region: region.to_owned(),
        domain: domain.to_owned(),
    })
}

/// Whether the text is `prefix` and the hexadecimal digits of an AWS id.
pub fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|digits| {
        (8..=17).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Takes `entry-http.SYSTEM.REGION.datomic.net` or `entry.…` apart (a lower-case host).
pub fn peered_name(host: &str) -> Option<PeeredName> {
    let labels: Vec<&str> = host.strip_suffix(".datomic.net")?.split('.').collect();
    let [entry, system, region] = labels[..] else {
        return None;
    };
    let http = match entry {
        "entry-http" => true,
        "entry" => false,
        _ => return None,
    };
    is_region(region).then(|| PeeredName {
        http,
        system: system.to_owned(),
        region: region.to_owned(),
    })
}

/// The zone of a VPC endpoint's or a network load balancer's zonal name.
pub fn zone_of(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    if let Some(name) = vpce_name(&host) {
        return name.zone;
    }
    let (zone, region) = nlb_zone_and_region(&host)?;
    (region_of_zone(zone) == Some(region)).then(|| zone.to_owned())
}

/// `us-west-2a.my-nlb.elb.us-west-2.amazonaws.com`: what stands where zone and region stand.
pub fn nlb_zone_and_region(host: &str) -> Option<(&str, &str)> {
    let rest = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let labels: Vec<&str> = rest.split('.').collect();
    match labels[..] {
        [zone, _, "elb", region] if is_region(region) => Some((zone, region)),
        _ => None,
    }
}

/// The region a host's name tells.
pub fn region_of(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    vpce_name(&host)
        .map(|name| name.region)
        .or_else(|| peered_name(&host).map(|name| name.region))
        .or_else(|| nlb_zone_and_region(&host).map(|(_, region)| region.to_owned()))
}

// === impl VpceName ===

impl VpceName {
    /// The name without a zone.
    pub fn regional(&self) -> String {
        self.named(&self.id)
    }

    /// The name of one zone.
    pub fn zonal(&self, zone: &str) -> String {
        self.named(&format!("{}-{zone}", self.id))
    }

    fn named(&self, first: &str) -> String {
        format!(
            "{first}.{}.{}.vpce.{}",
            self.service, self.region, self.domain
        )
    }
}

// === impl PeeredName ===

impl PeeredName {
    /// The name of current releases, then the older one.
    pub fn both(system: &str, region: &str) -> [String; 2] {
        ["entry-http", "entry"].map(|entry| format!("{entry}.{system}.{region}.datomic.net"))
    }
}
