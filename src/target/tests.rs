use super::*;
use crate::upstream::endpoint::Role;

const VPCE: &str =
    "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com";
const NLB: &str = "my-nlb-0123456789abcdef.elb.us-west-2.amazonaws.com";

/// `HOST:PORT[?zone=Z&name=N]` as settings, which split it.
fn explicit(flags: &[&str]) -> Vec<EndpointSettings> {
    let endpoint = |flag: &&str| {
        let (address, query) = flag.split_once('?').unwrap_or((flag, ""));
        let value = |key: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        EndpointSettings {
            address: address.to_owned(),
            zone: value("zone").map(Zone::new),
            name: value("name").map(EndpointName::new),
            via: None,
        }
    };
    flags.iter().map(endpoint).collect()
}

fn resolve_flags(flags: &[&str]) -> Result<ResolvedTarget, Vec<TargetError>> {
    Target {
        endpoints: &explicit(flags),
        ..Target::default()
    }
    .resolve()
}

fn names(resolved: &ResolvedTarget) -> Vec<&str> {
    let names = resolved.endpoints.iter().map(|spec| spec.name.as_str());
    names.collect()
}

/// A file with a client map in it; gone with the value.
struct ClientFile(tempfile::TempDir);

impl ClientFile {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("client.edn"), text).unwrap();
        Self(folder)
    }

    fn spec(&self) -> String {
        self.0.path().join("client.edn").display().to_string()
    }

    fn resolve(&self, target: Target<'_>) -> Result<ResolvedTarget, String> {
        let spec = self.spec();
        let target = Target {
            from_client: Some(&spec),
            ..target
        };
        target.resolve().map_err(|errors| {
            let [error] = &errors[..] else {
                panic!("{errors:?}");
            };
            assert_eq!(error.key, "from_client");
            error.what.replace(&spec, "FILE")
        })
    }
}

fn resolve_map(text: &str) -> Result<ResolvedTarget, String> {
    ClientFile::new(text).resolve(Target::default())
}

#[test]
fn endpoints_are_named_by_name_zone_or_host() {
    let resolved = resolve_flags(&[
        "10.0.0.1:8182?zone=us-east-1a",
        "10.0.0.2:8182?zone=us-east-1b&name=second",
        "10.0.0.3:8182?zone=us-east-1c",
        "10.0.0.4:8182?zone=us-east-1c",
        "db:8182",
        "db:8183",
        "[::1]:8182",
        "[::1]:8183",
        "us-west-2a.my-nlb-1234.elb.us-west-2.amazonaws.com:8182",
    ])
    .unwrap();
    assert_eq!(
        names(&resolved),
        [
            "us-east-1a",
            "second",
            "10.0.0.3",
            "10.0.0.4",
            "db:8182",
            "db:8183",
            "[::1]:8182",
            "[::1]:8183",
            "us-west-2a",
        ]
    );
    assert_eq!(resolved.endpoints[6].host, "::1");
    assert_eq!(resolved.region.as_deref(), Some("us-west-2"));
    assert!(resolved.warnings.is_empty());
}

#[test]
fn a_vpc_endpoint_or_nlb_has_its_regional_name_and_candidates_for_every_zone() {
    let zonal = VPCE.replace("s7g7d18a", "s7g7d18a-us-west-2b");
    let zonal_nlb = format!("us-west-2b.{NLB}");
    for (flag, regional, text, notes) in [
        ("vpce", VPCE, VPCE.to_owned(), 1),
        ("vpce", VPCE, format!("{zonal}:8182"), 2),
        ("vpce", VPCE, format!("{VPCE}."), 1),
        ("nlb", NLB, NLB.to_owned(), 0),
        ("nlb", NLB, format!("{zonal_nlb}:8182"), 1),
    ] {
        let resolved = Target {
            vpce: (flag == "vpce").then_some(&text),
            nlb: (flag == "nlb").then_some(&text),
            ..Target::default()
        }
        .resolve()
        .unwrap();
        let zones = ["a", "b", "c", "d", "e", "f"].map(|zone| format!("us-west-2{zone}"));
        assert_eq!(names(&resolved)[0], regional);
        assert_eq!(names(&resolved)[1..], zones);
        assert_eq!(resolved.endpoints[0].role, Role::Regional);
        assert!(
            resolved.endpoints[1..]
                .iter()
                .all(|spec| spec.role == Role::Zonal && spec.port == 8182)
        );
        let second = &resolved.endpoints[2];
        assert_eq!(
            second.host,
            if flag == "vpce" { &zonal } else { &zonal_nlb }.as_str()
        );
        assert_eq!(second.zone, Some(Zone::new("us-west-2b")));
        assert_eq!(resolved.region.as_deref(), Some("us-west-2"));
        assert_eq!(resolved.notes.len(), notes);
    }
    let alb = Target {
        nlb: Some("my-alb-0123.us-west-2.elb.amazonaws.com"),
        ..Target::default()
    };
    let errors = alb.resolve().unwrap_err();
    assert_eq!(errors[0].key, "nlb");
    assert!(errors[0].what.contains("application load balancer"));
}

#[test]
fn peering_tries_the_current_name_then_the_older_of_system_or_query_group() {
    let target = Target {
        peering: true,
        system: Some("prod"),
        region: Some("us-east-1"),
        ..Target::default()
    };
    let resolved = target.resolve().unwrap();
    assert_eq!(
        names(&resolved),
        [
            "entry-http.prod.us-east-1.datomic.net",
            "entry.prod.us-east-1.datomic.net"
        ]
    );
    assert_eq!(resolved.endpoints[0].role, Role::Peered);
    assert_eq!(resolved.endpoints[1].role, Role::PeeredOld);
    let group = Target {
        query_group: Some("reports"),
        ..target
    };
    let resolved = group.resolve().unwrap();
    assert_eq!(
        names(&resolved)[0],
        "entry-http.reports.us-east-1.datomic.net"
    );
    assert_eq!(resolved.system.as_deref(), Some("prod"));
    assert_eq!(resolved.query_group.as_deref(), Some("reports"));
    let own = Target {
        query_group: Some("prod"),
        ..target
    };
    assert!(
        own.resolve().unwrap().warnings[0]
            .what
            .contains("system's own name")
    );
    let alone = Target {
        peering: true,
        query_group: Some("my_group"),
        ..Target::default()
    };
    let errors = alone.resolve().unwrap_err();
    let whats: Vec<&str> = errors.iter().map(|error| error.what.as_str()).collect();
    assert_eq!(
        whats,
        [
            "`my_group` cannot be the name of a query group: letters, digits and hyphens only",
            "peering needs a system",
            "peering needs a region"
        ]
    );
}

#[test]
fn a_client_map_leads_where_its_application_goes() {
    let peered = [
        "entry-http.prod.us-east-1.datomic.net",
        "entry.prod.us-east-1.datomic.net",
    ];
    for endpoint in [
        "",
        ":endpoint \"http://localhost:8182\"",
        ":endpoint \"http://127.0.0.1:8182/\"",
        ":endpoint \"http://[::1]:8182\"",
        ":endpoint \"http://entry.prod.us-east-1.datomic.net:8182/\"",
        ":endpoint \"http://entry-http.prod.us-east-1.datomic.net\"",
        ":endpoint #env ENDPOINT",
    ] {
        let map = format!("{{:system \"prod\" :region \"us-east-1\" {endpoint}}}");
        let resolved = resolve_map(&map).unwrap();
        assert_eq!(names(&resolved), peered, "{endpoint}");
        assert_eq!(resolved.system.as_deref(), Some("prod"));
        assert_eq!(
            resolved.warnings.len(),
            usize::from(endpoint.contains("#env"))
        );
        // Nested somewhere, the same.
        let nested = format!("{{:app [1 {{:datomic {map}}}]}}");
        assert_eq!(resolve_map(&nested).unwrap(), {
            let mut same = resolved.clone();
            for warning in &mut same.warnings {
                warning.what = resolve_map(&nested).unwrap().warnings[0].what.clone();
            }
            same
        });
    }
    let resolved =
        resolve_map("{:endpoint \"http://entry.prod.us-east-1.datomic.net:8182\"}").unwrap();
    assert_eq!(resolved.system.as_deref(), Some("prod"));
    assert_eq!(resolved.region.as_deref(), Some("us-east-1"));
    for name in [VPCE, NLB] {
        let resolved = resolve_map(&format!(
            "{{:endpoint \"http://{name}:8182\" :system \"prod\"}}"
        ))
        .unwrap();
        assert_eq!(resolved.endpoints.len(), 7);
        assert_eq!(resolved.system.as_deref(), Some("prod"));
    }
    let resolved = resolve_map("{:endpoint \"http://datomic.internal:8182\"}").unwrap();
    assert_eq!(names(&resolved), ["datomic.internal"]);
    let resolved = resolve_map("{:endpoint \"10.0.0.7\"}").unwrap();
    assert_eq!(resolved.endpoints[0].port, 8182);
}

#[test]
fn a_query_group_in_a_client_map_is_where_connections_go() {
    for map in [
        "{:system \"prod\" :region \"us-east-1\" :query-group \"reports\"}",
        "{:system \"prod\" :region \"us-east-1\" :query-group \"reports\" :endpoint \"http://localhost:8182\"}",
        "{:system \"prod\" :region \"us-east-1\" :query-group \"reports\" :endpoint \"http://entry.reports.us-east-1.datomic.net:8182/\"}",
        "{:system \"prod\" :endpoint \"http://entry.reports.us-east-1.datomic.net:8182/\"}",
    ] {
        let resolved = resolve_map(map).unwrap();
        assert_eq!(
            names(&resolved)[0],
            "entry-http.reports.us-east-1.datomic.net",
            "{map}"
        );
        assert_eq!(resolved.system.as_deref(), Some("prod"), "{map}");
        assert_eq!(resolved.query_group.as_deref(), Some("reports"), "{map}");
        assert!(
            resolved.warnings.is_empty(),
            "{map}: {:?}",
            resolved.warnings
        );
        assert_eq!(
            resolved.flags(),
            [
                "--peering",
                "--system=prod",
                "--region=us-east-1",
                "--query-group=reports"
            ],
            "{map}"
        );
    }
}

#[test]
fn a_client_map_whose_group_is_the_system_is_warned_about() {
    let resolved = resolve_map("{:system \"prod\" :region \"us-east-1\" :query-group \"prod\"}");
    let what = &resolved.unwrap().warnings[0].what;
    assert!(
        what.starts_with("query group `prod` has the system's own name"),
        "{what}"
    );
}

#[test]
fn a_client_map_that_leads_nowhere_is_explained() {
    for (map, words) in [
        ("{:endpoint \"http://localhost:8182\"}", "this machine"),
        ("{:system \"prod\"}", "neither"),
        (
            "{:endpoint \"https://x1.execute-api.us-east-1.amazonaws.com\"}",
            "API Gateway",
        ),
        ("{:endpoint \"http://h:8182/api\"}", "no path"),
        ("{:endpoint \"\"}", "empty"),
        ("{:system \"prod\" :region \"useast\"}", "no AWS region"),
        (
            "{:system \"a/b\" :region \"us-east-1\"}",
            "cannot be the name",
        ),
        (
            "{:system \"prod\" :region \"us-east-1\" :query-group \"a_b\"}",
            ":query-group:",
        ),
        (
            "{:server-type :datomic-local :system \"dev\"}",
            "divert-system",
        ),
        (
            "{:server-type :dev-local :system \"dev\" :endpoint \"e\"}",
            "divert-system",
        ),
        (
            "{:system \"prod\"\n :region #env REGION}",
            "FILE:2:10: the value of :region is #env REGION",
        ),
        (
            "{:system \"prod\"\n :region #env REGION}",
            "give --region REGION",
        ),
        (
            "{:system #env S :endpoint \"localhost:8182\"}",
            "give --system SYSTEM",
        ),
        ("{:system \"prod\" :endpoint #env E}", "FILE:1:27:"),
        (
            "{:system \"prod\" :region \"us-east-1\" :query-group #env Q}",
            "give --query-group GROUP",
        ),
        ("{:a {:system \"s\"} :b {:system \"t\"}}", "#a #b"),
        ("{:a", "FILE:1:1:"),
    ] {
        let what = resolve_map(map).unwrap_err();
        assert!(what.contains(words), "{map}: {what}");
    }
    // What is not needed need not be readable; flags replace what is.
    let map = "{:system #env S :region #env R :query-group #env Q :endpoint \"http://h:8182\"}";
    assert_eq!(names(&resolve_map(map).unwrap()), ["h"]);
    let flags = Target {
        system: Some("prod"),
        region: Some("us-east-1"),
        ..Target::default()
    };
    let file = ClientFile::new("{:system #env S :region #env R :endpoint #env E}");
    let resolved = file.resolve(flags).unwrap();
    assert_eq!(names(&resolved)[0], "entry-http.prod.us-east-1.datomic.net");
}

#[test]
fn proxy_keys_are_a_warning() {
    let map = "{:system \"s\" :region \"us-east-1\" :proxy-port 8182}";
    let resolved = resolve_map(map).unwrap();
    let [warning] = &resolved.warnings[..] else {
        panic!("{resolved:?}");
    };
    assert!(
        warning.what.contains(":proxy-port") && warning.what.contains("--patch"),
        "{warning}"
    );
}

#[test]
fn odd_endpoints_are_warnings_and_wrong_ones_errors() {
    let resolved = resolve_flags(&[
        "prod.us-east-1.datomic.net:8182",
        "vpce-datomic.corp.example:8182",
        "h:8184",
    ])
    .unwrap();
    let [warning] = &resolved.warnings[..] else {
        panic!("{resolved:?}");
    };
    assert_eq!(warning.key, "endpoint[0].address");
    assert!(warning.what.contains("hosted zone"), "{warning}");
    assert!(resolved.notes[0].contains("HTTP direct"));
    let errors = resolve_flags(&[
        "h",
        "h:1",
        "H:1",
        "x:1?name=h",
        "y:1?zone=a b",
        "10.0.0.1:1",
        "[::ffff:10.0.0.1]:1",
    ])
    .unwrap_err();
    let found: Vec<(&str, Option<&str>)> = errors
        .iter()
        .map(|error| (error.key.as_str(), error.first.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("endpoint[0].address", None),
            ("endpoint[2].address", Some("endpoint[1].address")),
            ("endpoint[4].zone", None),
            ("endpoint[6].address", Some("endpoint[5].address")),
            ("endpoint[3].name", Some("endpoint[1].address")),
        ]
    );
}

#[test]
fn several_targets_exclude_each_other_and_none_has_no_endpoints() {
    let endpoints = explicit(&["h:1"]);
    let two = Target {
        endpoints: &endpoints,
        vpce: Some(VPCE),
        ..Target::default()
    };
    let errors = two.resolve().unwrap_err();
    assert_eq!(errors[0].what, "two targets: --endpoint and --vpce");
    assert_eq!(errors[0].first.as_deref(), Some("endpoint"));
    let none = Target {
        system: Some("prod"),
        region: Some("us-east-1a"),
        ..Target::default()
    };
    let errors = none.resolve().unwrap_err();
    assert_eq!(
        errors[0].what,
        "`us-east-1a` is a zone; its region is us-east-1"
    );
    let none = Target {
        region: None,
        ..none
    };
    let resolved = none.resolve().unwrap();
    assert!(resolved.endpoints.is_empty());
    assert_eq!(resolved.system.as_deref(), Some("prod"));
    assert!(resolved.flags().is_empty());
}

/// What is generated from a target leads to the same endpoints.
#[test]
fn flags_lead_to_the_same_endpoints() {
    let peering = Target {
        peering: true,
        system: Some("prod"),
        region: Some("us-east-1"),
        query_group: Some("reports"),
        ..Target::default()
    };
    let endpoints = explicit(&["db:8182?zone=z", "[fd00::1]:8182?name=x", "h:1", "h:2"]);
    let given = Target {
        endpoints: &endpoints,
        ..Target::default()
    };
    let vpce = format!("{VPCE}:9000");
    let targets = [
        peering.resolve().unwrap(),
        given.resolve().unwrap(),
        Target {
            vpce: Some(&vpce),
            ..Target::default()
        }
        .resolve()
        .unwrap(),
        Target {
            nlb: Some(NLB),
            ..Target::default()
        }
        .resolve()
        .unwrap(),
        resolve_map("{:system \"prod\" :region \"us-east-1\"}").unwrap(),
        resolve_map("{:endpoint \"http://entry.prod.us-east-1.datomic.net:8182\"}").unwrap(),
        resolve_map("{:endpoint \"http://datomic.internal:8182\"}").unwrap(),
    ];
    for target in targets {
        let flags = target.flags();
        let value = |name: &str| {
            let start = format!("--{name}=");
            let mut values = flags.iter().filter_map(|flag| flag.strip_prefix(&start));
            values.next()
        };
        let endpoints: Vec<&str> = flags
            .iter()
            .filter_map(|flag| flag.strip_prefix("--endpoint="))
            .collect();
        let again = Target {
            endpoints: &explicit(&endpoints),
            vpce: value("vpce"),
            nlb: value("nlb"),
            peering: flags.iter().any(|flag| flag == "--peering"),
            system: value("system"),
            region: value("region"),
            query_group: value("query-group"),
            from_client: None,
        }
        .resolve()
        .unwrap();
        assert_eq!(again.endpoints, target.endpoints, "{flags:?}");
    }
}
