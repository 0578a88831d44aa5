use std::path::PathBuf;

use super::*;
use crate::metrics::family;
use crate::target::Target;
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::{EndpointSpec, Role};

fn spec(host: &str, name: &str, zone: Option<&str>, role: Role) -> EndpointSpec {
    EndpointSpec {
        name: EndpointName::new(name),
        host: host.to_owned(),
        port: 8182,
        zone: zone.map(Zone::new),
        role,
        hop: None,
    }
}

/// What tests/snippets is made from: a query group of a peered system.
fn peered() -> SnippetInput {
    let target = Target {
        peering: true,
        system: Some("prod"),
        region: Some("us-east-1"),
        query_group: Some("analytics"),
        ..Target::default()
    };
    SnippetInput {
        target: target.resolve().unwrap(),
        ..SnippetInput::default()
    }
}

fn to(endpoints: Vec<EndpointSpec>) -> ResolvedTarget {
    ResolvedTarget {
        endpoints,
        ..ResolvedTarget::default()
    }
}

fn expected(kind: SnippetKind) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snippets");
    folder.join(format!("{kind}.expected"))
}

#[test]
fn documents_are_as_expected() {
    let bless = std::env::var_os("ENTRYWAY_BLESS").is_some_and(|value| value == "1");
    let mut wrong = Vec::new();
    for kind in SnippetKind::ALL {
        let text = render(kind, &peered());
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{kind}");
        if bless {
            std::fs::write(expected(kind), &text).unwrap();
        } else if std::fs::read_to_string(expected(kind)).unwrap_or_default() != text {
            wrong.push(kind.as_str());
        }
    }
    assert!(
        wrong.is_empty(),
        "changed: {wrong:?}; look, then ENTRYWAY_BLESS=1 cargo test --lib snippet"
    );
}

#[test]
fn without_a_target_the_files_under_config_are_printed() {
    let input = SnippetInput::default();
    for (kind, file) in [
        (SnippetKind::Systemd, SERVICE),
        (SnippetKind::K8s, KUBERNETES),
        (SnippetKind::Ecs, ECS),
        (SnippetKind::Compose, COMPOSE),
    ] {
        assert_eq!(render(kind, &input), file);
    }
    let edn = render(SnippetKind::Edn, &input);
    assert!(edn.contains(":system      \"SYSTEM\" ; put yours"), "{edn}");
    assert!(!render(SnippetKind::Cloudformation, &input).contains("SYSTEM"));
    assert!(!render(SnippetKind::Terraform, &input).contains("SYSTEM"));
}

#[test]
fn settings_reach_every_deployment() {
    let input = SnippetInput {
        target: to(vec![
            spec(
                "10.0.0.1",
                "us-east-1a",
                Some("us-east-1a"),
                Role::Configured,
            ),
            spec("::1", "six", None, Role::Configured),
            spec("db", "db", None, Role::Configured),
        ]),
        listen: "0.0.0.0:9000".parse().unwrap(),
        admin: "127.0.0.1:9001".parse().unwrap(),
        max_drain: Duration::from_millis(59_500),
        image: "registry.example/entryway:1".to_owned(),
        ..SnippetInput::default()
    };
    let args = [
        "--endpoint=10.0.0.1:8182?zone=us-east-1a",
        "--endpoint=[::1]:8182?name=six",
        "--endpoint=db:8182",
        "--listen=0.0.0.0:9000",
        "--allow-remote",
        "--admin=127.0.0.1:9001",
    ];
    assert_eq!(input.args(), args);
    for (kind, stop) in [
        (SnippetKind::Systemd, "TimeoutStopSec=70"),
        (SnippetKind::K8s, "terminationGracePeriodSeconds: 95"),
        (SnippetKind::Ecs, "\"stopTimeout\": 70"),
        (SnippetKind::Compose, "stop_grace_period: 70s"),
    ] {
        let text = render(kind, &input);
        assert!(args.iter().all(|arg| text.contains(arg)), "{text}");
        assert!(text.contains(stop), "{text}");
        assert!(
            !text.contains(SAMPLE) && !text.contains("localhost:8182"),
            "{text}"
        );
        if kind != SnippetKind::Systemd {
            assert!(text.contains("registry.example/entryway:1"), "{text}");
            assert!(
                text.contains("\"healthcheck\", \"--admin=127.0.0.1:9001\""),
                "{text}"
            );
        }
    }
    assert!(render(SnippetKind::Prometheus, &input).contains("127.0.0.1:9001"));
    assert_eq!(input.url(), "http://localhost:9000");
}

#[test]
fn what_is_missing_is_marked_and_said() {
    let input = SnippetInput::default();
    for kind in [SnippetKind::K8s, SnippetKind::Ecs, SnippetKind::Compose] {
        let text = render(kind, &input);
        assert!(
            text.contains("--vpce=REPLACE-WITH-YOUR-ENDPOINT-NAME"),
            "{text}"
        );
        assert!(
            text.contains("replace-with-your-registry/entryway"),
            "{text}"
        );
        let missing = missing(kind, &input).unwrap();
        assert!(missing.contains("the target and the image"), "{missing}");
        let missing = super::missing(kind, &peered()).unwrap();
        assert!(!missing.contains("target"), "{missing}");
    }
    assert!(missing(SnippetKind::Systemd, &input).is_some());
    assert_eq!(missing(SnippetKind::Systemd, &peered()), None);
    assert_eq!(missing(SnippetKind::Alerts, &input), None);
}

#[test]
fn a_unit_starts_with_the_file() {
    let input = SnippetInput {
        config: Some("/etc/entry way/50%.toml".to_owned()),
        ..peered()
    };
    let unit = render(SnippetKind::Systemd, &input);
    assert!(
        unit.contains("run \"--config=/etc/entry way/50%%.toml\"\n"),
        "{unit}"
    );
    assert!(render(SnippetKind::K8s, &input).contains("--peering"));
}

#[test]
fn a_regional_name_brings_its_zones_along() {
    let host = "vpce-1.vpce-svc-1.us-east-1.vpce.amazonaws.com";
    let input = SnippetInput {
        target: to(vec![
            spec(host, host, None, Role::Regional),
            spec("zonal", "us-east-1a", Some("us-east-1a"), Role::Zonal),
        ]),
        ..SnippetInput::default()
    };
    let args = [
        format!("--vpce={host}"),
        "--admin=127.0.0.1:8183".to_owned(),
    ];
    assert_eq!(input.args(), args);
}

#[test]
fn a_client_map_is_one_that_we_read() {
    let input = peered();
    let map = edn::read_client_map(&render(SnippetKind::Edn, &input), None).unwrap();
    let text = |text: &str| Some(Ok(text.to_owned()));
    assert_eq!(map.endpoint, text("http://localhost:8182"));
    assert_eq!(map.query_group, text("analytics"));
    let elsewhere = SnippetInput {
        listen: "127.0.0.9:8182".parse().unwrap(),
        ..input
    };
    assert_eq!(elsewhere.url(), "http://127.0.0.9:8182");
}

/// Rules and dashboard speak only of metrics that exist, and of labels they have.
#[test]
fn metrics_in_the_texts_exist() {
    for kind in [SnippetKind::Alerts, SnippetKind::Grafana] {
        let text = render(kind, &peered());
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = text.split(|c| !word(c)).filter(|name| {
            (name.starts_with("entryway_") || name.starts_with("process_")) && !name.ends_with('_')
        });
        let mut count = 0;
        for name in names {
            count += 1;
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(
                family::ALL.iter().any(|family| family.name == base),
                "{kind}: {name}"
            );
        }
        assert!(count > 10, "{kind}");
    }
}

#[test]
fn a_catalog_holds_the_client_map_on_one_line() {
    let text = render(SnippetKind::Trino, &peered());
    let config = text
        .lines()
        .find_map(|line| line.strip_prefix("datomic.client.config="));
    let map = edn::read_client_map(config.unwrap(), None).unwrap();
    assert_eq!(map.query_group, Some(Ok("analytics".to_owned())));
    assert_eq!(map.endpoint, Some(Ok("http://localhost:8182".to_owned())));
    let unnamed = render(SnippetKind::Trino, &SnippetInput::default());
    let config = unnamed.lines().last().unwrap();
    assert!(
        config.contains(":system      \"SYSTEM\"") && !config.contains(';'),
        "{config}"
    );
}

/// The component is cut out of the Deployment: the same container and volume, deeper by one patch.
#[test]
fn a_component_holds_the_deployments_sidecar() {
    let deployment = render(SnippetKind::K8s, &peered());
    let component = render(SnippetKind::Kustomize, &peered());
    assert!(component.contains("kind: Component"));
    let container = deployment.split("      initContainers:\n").nth(1).unwrap();
    let container = container.split("      containers:\n").next().unwrap();
    for line in container.lines().chain(["            medium: Memory"]) {
        assert!(
            component.contains(&format!("\n      {line}")),
            "{line}\n{component}"
        );
    }
    assert!(!component.contains("your-application"));
}

#[test]
fn json_is_json() {
    for kind in [
        SnippetKind::Ecs,
        SnippetKind::Grafana,
        SnippetKind::Cloudwatch,
    ] {
        let _: serde_json::Value = serde_json::from_str(&render(kind, &peered())).unwrap();
    }
}

#[test]
fn kinds_are_read_by_name() {
    for kind in SnippetKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
        assert!(!kind.about().is_empty());
    }
    assert!(
        "helm"
            .parse::<SnippetKind>()
            .unwrap_err()
            .to_string()
            .contains("cloudformation")
    );
}

/// The guide says which name is to be replaced: the one that snippets have.
#[test]
fn the_guide_names_the_image_that_snippets_have() {
    let guide = include_str!("../guide/sidecar.md");
    let image = "replace-with-your-registry/entryway:latest";
    assert!(guide.contains(image), "{guide}");
    assert!(include_str!("../snippet.rs").contains(image));
}
