//! The flags of `run` that lead where a resolved target leads.

use super::ResolvedTarget;
use crate::addr::PORT;
use crate::addr::aws::entry_name;
use crate::upstream::endpoint::{EndpointSpec, Role};

// === impl ResolvedTarget ===

impl ResolvedTarget {
    /// The target flags, `--flag=value` each; none where there is no target.
    pub fn flags(&self) -> Vec<String> {
        let Some(first) = self.endpoints.first() else {
            return Vec::new();
        };
        let with_port = |flag: &str| match first.port {
            PORT => format!("--{flag}={}", first.host),
            port => format!("--{flag}={}:{port}", first.host),
        };
        match first.role {
            Role::Regional | Role::Zonal if first.host.contains(".vpce.") => {
                vec![with_port("vpce")]
            }
            Role::Regional | Role::Zonal => vec![with_port("nlb")],
            Role::Peered | Role::PeeredOld if first.port == PORT => self.peering_flags(first),
            // Peering has one port; with another the names can only be given by themselves.
            Role::Peered | Role::PeeredOld | Role::Configured => {
                self.endpoints.iter().map(explicit).collect()
            }
        }
    }

    fn peering_flags(&self, first: &EndpointSpec) -> Vec<String> {
        let name = entry_name(&first.host.to_ascii_lowercase());
        let (group, region) = name.map_or_else(
            || (String::new(), String::new()),
            |name| (name.group, name.region),
        );
        let system = self.system.as_deref().unwrap_or(&group);
        let mut flags = vec![
            "--peering".to_owned(),
            format!("--system={system}"),
            format!("--region={region}"),
        ];
        if !group.eq_ignore_ascii_case(system) {
            flags.push(format!("--query-group={group}"));
        }
        flags
    }
}

/// `--endpoint=HOST:PORT[?zone=Z&name=N]`; the name is written where it is not the default one.
fn explicit(spec: &EndpointSpec) -> String {
    let address = match spec.host.contains(':') {
        true => format!("[{}]:{}", spec.host, spec.port),
        false => format!("{}:{}", spec.host, spec.port),
    };
    let name = spec.name.as_str();
    let zone = spec.zone.as_ref().map(|zone| zone.as_str());
    let usual = Some(name) == zone || name == spec.host || name == address;
    let parts: Vec<String> = [("zone", zone), ("name", (!usual).then_some(name))]
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| format!("{key}={value}")))
        .collect();
    match parts.is_empty() {
        true => format!("--endpoint={address}"),
        false => format!("--endpoint={address}?{}", parts.join("&")),
    }
}
