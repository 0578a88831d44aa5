use super::*;
use crate::edn::ClientMap;
use crate::types::Zone;
use crate::upstream::endpoint::Role;

const VPCE: &str =
    "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com";

fn explicit(flags: &[&str]) -> Vec<Explicit> {
    flags
        .iter()
        .map(|flag| Explicit::parse(flag).unwrap())
        .collect()
}

fn resolve_flags(flags: &[&str]) -> Result<ResolvedTarget, Vec<TargetError>> {
    resolve(&Target {
        endpoints: &explicit(flags),
        ..Target::default()
    })
}

fn names(resolved: &ResolvedTarget) -> Vec<&str> {
    resolved
        .endpoints
        .iter()
        .map(|spec| spec.name.as_str())
        .collect()
}

#[test]
fn names_follow_the_rule_of_the_contract() {
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
}

#[test]
fn a_vpc_endpoint_has_its_regional_name_and_candidates_for_every_zone() {
    let zonal = VPCE.replace("s7g7d18a", "s7g7d18a-us-west-2b");
    for (text, notes) in [
        (VPCE.to_owned(), 1),
        (format!("{zonal}:8182"), 2),
        (format!("{VPCE}."), 1),
    ] {
        let resolved = resolve(&Target {
            vpce: Some(&text),
            ..Target::default()
        })
        .unwrap();
        assert_eq!(
            names(&resolved),
            [
                VPCE,
                "us-west-2a",
                "us-west-2b",
                "us-west-2c",
                "us-west-2d",
                "us-west-2e",
                "us-west-2f"
            ]
        );
        let roles: Vec<Role> = resolved.endpoints.iter().map(|spec| spec.role).collect();
        assert_eq!(roles[0], Role::Regional);
        assert!(roles[1..].iter().all(|role| *role == Role::Zonal));
        assert_eq!(resolved.endpoints[2].host, zonal);
        assert_eq!(resolved.endpoints[2].zone, Some(Zone::new("us-west-2b")));
        assert_eq!(resolved.region.as_deref(), Some("us-west-2"));
        assert_eq!(resolved.notes.len(), notes);
    }
    let resolved = resolve(&Target {
        vpce: Some(&format!("{VPCE}:9000")),
        ..Target::default()
    })
    .unwrap();
    assert!(resolved.endpoints.iter().all(|spec| spec.port == 9000));
}

#[test]
fn peering_tries_the_current_name_then_the_older() {
    let target = Target {
        peering: true,
        system: Some("prod"),
        region: Some("us-east-1"),
        ..Target::default()
    };
    let resolved = resolve(&target).unwrap();
    assert_eq!(
        names(&resolved),
        [
            "entry-http.prod.us-east-1.datomic.net",
            "entry.prod.us-east-1.datomic.net"
        ]
    );
    assert_eq!(resolved.endpoints[0].role, Role::Peered);
    assert_eq!(resolved.endpoints[1].role, Role::PeeredOld);
    let alone = resolve(&Target {
        peering: true,
        ..Target::default()
    })
    .unwrap_err();
    let parts: Vec<TargetPart> = alone.iter().map(|problem| problem.part).collect();
    assert_eq!(parts, [TargetPart::System, TargetPart::Region]);
}

#[test]
fn a_client_map_leads_where_its_application_goes() {
    let resolve_map = |endpoint: Option<&str>, system: Option<&str>, region: Option<&str>| {
        let map = ClientMap {
            endpoint: endpoint.map(str::to_owned),
            system: system.map(str::to_owned),
            region: region.map(str::to_owned),
            query_group: Some("analytics".to_owned()),
            ..ClientMap::default()
        };
        resolve(&Target {
            from_client: Some(&map),
            ..Target::default()
        })
    };
    let both = (Some("prod"), Some("us-east-1"));
    let peered = [
        "entry-http.prod.us-east-1.datomic.net",
        "entry.prod.us-east-1.datomic.net",
    ];
    for endpoint in [
        None,
        Some("http://localhost:8182"),
        Some("http://127.0.0.1:8182/"),
        Some("http://[::1]:8182"),
        Some("http://entry.prod.us-east-1.datomic.net:8182/"),
        Some("http://entry-http.prod.us-east-1.datomic.net"),
    ] {
        let resolved = resolve_map(endpoint, both.0, both.1).unwrap();
        assert_eq!(names(&resolved), peered, "{endpoint:?}");
        assert_eq!(resolved.query_group.as_deref(), Some("analytics"));
    }
    let resolved = resolve_map(
        Some("http://entry.prod.us-east-1.datomic.net:8182"),
        None,
        None,
    )
    .unwrap();
    assert_eq!(
        (resolved.system.as_deref(), resolved.region.as_deref()),
        both
    );
    let resolved = resolve_map(Some(&format!("http://{VPCE}:8182")), Some("prod"), None).unwrap();
    assert_eq!(resolved.endpoints.len(), 7);
    assert_eq!(resolved.system.as_deref(), Some("prod"));
    let resolved = resolve_map(Some("http://datomic.internal:8182"), None, None).unwrap();
    assert_eq!(names(&resolved), ["datomic.internal"]);
    let resolved = resolve_map(Some("10.0.0.7"), None, None).unwrap();
    assert_eq!(resolved.endpoints[0].port, 8182);
    for (endpoint, system, region, words) in [
        (Some("http://localhost:8182"), None, None, "this machine"),
        (None, Some("prod"), None, "neither"),
        (
            Some("https://x1.execute-api.us-east-1.amazonaws.com"),
            None,
            None,
            "API Gateway",
        ),
        (Some("http://h:8182/api"), None, None, "no path"),
        (Some(""), None, None, "empty"),
        (None, Some("prod"), Some("useast"), "no AWS region"),
        (None, Some("a/b"), Some("us-east-1"), "cannot be the name"),
    ] {
        let problems = resolve_map(endpoint, system, region).unwrap_err();
        assert_eq!(problems[0].part, TargetPart::FromClient);
        assert!(problems[0].what.contains(words), "{}", problems[0]);
    }
    let local = ClientMap {
        server_type: Some("datomic-local".to_owned()),
        ..ClientMap::default()
    };
    let problems = resolve(&Target {
        from_client: Some(&local),
        ..Target::default()
    })
    .unwrap_err();
    assert!(problems[0].what.contains("inside the application"));
}

#[test]
fn wrong_targets_name_every_fault() {
    let none = resolve(&Target::default()).unwrap_err();
    assert!(none[0].what.starts_with("no target"));
    let two = resolve(&Target {
        endpoints: &explicit(&["h:1"]),
        vpce: Some(VPCE),
        region: Some("us-east-1a"),
        ..Target::default()
    })
    .unwrap_err();
    assert_eq!(
        two[0].what,
        "`us-east-1a` is a zone; its region is us-east-1"
    );
    assert_eq!(
        two[1].what,
        "--endpoint and --vpce exclude each other; give one"
    );
    let many = resolve_flags(&["h", "h:1", "H:1", "x:1?name=h", "y:1?zone=a b"]).unwrap_err();
    let parts: Vec<TargetPart> = many.iter().map(|p| p.part).collect();
    assert_eq!(parts, [0, 4, 2, 3].map(TargetPart::Endpoint));
    for flag in ["h:1?zones=a", "h:1?zone", "h:1?zone=a&zone=b", "h:1?"] {
        assert!(Explicit::parse(flag).is_err(), "{flag}");
    }
}

#[test]
fn settings_are_a_target() {
    let settings = UpstreamSettings {
        endpoints: vec![crate::settings::EndpointSettings {
            address: "10.0.0.1:8182".to_owned(),
            zone: Some(Zone::new("a")),
            name: None,
        }],
        system: Some("prod".to_owned()),
        ..UpstreamSettings::default()
    };
    let resolved = of(&settings, None).unwrap();
    assert_eq!(names(&resolved), ["a"]);
    assert_eq!(resolved.system.as_deref(), Some("prod"));
}
