//! What settings name outside the process: the list of the sandbox.

use std::path::{Path, PathBuf};

use super::layers::Loaded;
use super::model::UpstreamSettings;
use crate::dial::hop::ViaSettings;
use crate::dns::{ResolverKind, SystemFiles};
use crate::edn;
use crate::sandbox::Need;

/// Keys and what they need.
type Needs = Vec<(String, Need)>;

// === impl Loaded ===

impl Loaded {
    /// Every file, command and service of the machine that these settings need while they are in force, each with its
    /// key.
    pub fn needs(&self) -> Needs {
        let settings = &self.settings;
        let mut needs = Needs::new();
        let mut file = |key: &str, path: Option<&Path>| {
            if let Some(path) = path {
                needs.push((key.to_owned(), Need::File(path.to_owned())));
            }
        };
        file("", self.file().map(Path::new));
        let system = SystemFiles::default();
        file("dns", Some(&system.hosts));
        file("dns", Some(&system.resolv_conf));
        file("admin.token_file", settings.admin.token_file.as_deref());
        let gateway = &settings.gateway;
        file("gateway.cert", gateway.cert.as_deref());
        file("gateway.key", gateway.key.as_deref());
        file("gateway.client_ca", gateway.client_ca.as_deref());
        file("gateway.crl", gateway.crl.as_deref());
        if settings.dns.resolver == ResolverKind::System {
            needs.push(("dns.resolver".to_owned(), Need::SystemResolver));
        }
        for (index, upstream) in settings.upstreams.iter().enumerate() {
            of_upstream(&format!("upstream[{index}]"), upstream, &mut needs);
        }
        needs
    }
}

fn of_upstream(key: &str, upstream: &UpstreamSettings, needs: &mut Needs) {
    if let Some(spec) = &upstream.from_client {
        let (file, _) = edn::split_spec(spec);
        needs.push((format!("{key}.from_client"), Need::File(file.into())));
    }
    of_via(&format!("{key}.via"), &upstream.via, needs);
    for (index, endpoint) in upstream.endpoints.iter().enumerate() {
        if let Some(via) = &endpoint.via {
            of_via(&format!("{key}.endpoint[{index}].via"), via, needs);
        }
    }
}

fn of_via(key: &str, via: &ViaSettings, needs: &mut Needs) {
    let mut file = |name: &str, path: &Option<PathBuf>| {
        if let Some(path) = path {
            needs.push((format!("{key}.{name}"), Need::File(path.clone())));
        }
    };
    file("ca", &via.ca);
    file("cert", &via.cert);
    file("key", &via.key);
    file("credentials_file", &via.credentials_file);
    // Validated before.
    if let Ok(Some(hop)) = via.hop()
        && let Some(need) = hop.need()
    {
        needs.push((format!("{key}.url"), need));
    }
}
