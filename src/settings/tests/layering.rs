use super::*;
use crate::types::{EndpointName, UpstreamName, Zone};

const VPCE: &str =
    "vpce-0123456789abcdef0-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
const E: [&str; 2] = ["-e", "a.example:8182"];

fn with_endpoint<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&E[..], args].concat()
}

#[test]
fn flag_over_environment_over_file_over_profile_over_default() {
    let file = OneFile::new(
        "profile = \"laptop\"\n[listener]\nhold_timeout = \"7s\"\n[upstream.health]\nfall = 4\n",
    );
    let plain = OneFile::new("profile = \"laptop\"\n");
    let hold = |loaded: &Loaded| loaded.settings.listeners[0].hold_timeout.as_secs();
    let fall = |loaded: &Loaded| loaded.settings.upstreams[0].health.fall;

    let loaded = load_with(&E, &[]).unwrap();
    assert_eq!((hold(&loaded), fall(&loaded)), (10, 3));
    assert_eq!(loaded.source("upstream[0].health.fall"), "default");

    let loaded = plain.load(&E, &[]).unwrap();
    assert_eq!(
        (
            hold(&loaded),
            loaded.source("listener[0].hold_timeout").as_str()
        ),
        (30, "profile")
    );
    assert_eq!(loaded.settings.upstreams[0].warm.spares, 2);

    let loaded = file.load(&E, &[]).unwrap();
    assert_eq!((hold(&loaded), fall(&loaded)), (7, 4));
    assert_eq!(
        file.source(&loaded, "upstream[0].health.fall"),
        "entryway.toml:5"
    );

    let loaded = file.load(&E, &[("ENTRYWAY_FALL", "5")]).unwrap();
    assert_eq!(
        (
            fall(&loaded),
            loaded.source("upstream[0].health.fall").as_str()
        ),
        (5, "env")
    );

    let loaded = file
        .load(&with_endpoint(&["--fall", "6"]), &[("ENTRYWAY_FALL", "5")])
        .unwrap();
    assert_eq!(
        (
            fall(&loaded),
            loaded.source("upstream[0].health.fall").as_str()
        ),
        (6, "flag")
    );
}

#[test]
fn the_profile_itself_has_layers() {
    let file = OneFile::new("profile = \"laptop\"\n");
    let loaded = file
        .load(
            &with_endpoint(&["--profile", "load"]),
            &[("ENTRYWAY_PROFILE", "sidecar")],
        )
        .unwrap();
    assert_eq!(loaded.settings.profile, Profile::Load);
    assert_eq!(
        loaded.settings.log.connections,
        crate::events::ConnectionEvents::Errors
    );
    assert_eq!(loaded.settings.upstreams[0].warm.spares, 0);
}

#[test]
fn lists_in_a_variable_are_separated_by_white_space() {
    let env = [
        (
            "ENTRYWAY_ENDPOINT",
            "10.0.0.1:8182?zone=a&name=x  10.0.0.2:8182\n[::2]:8182",
        ),
        ("ENTRYWAY_LISTEN", "127.0.0.1:0 127.0.0.2:0"),
        ("ENTRYWAY_QUIET", "conns,probes"),
        ("ENTRYWAY_ALLOW_LOCAL_ANSWERS", "1"),
        ("ENTRYWAY_STRICT_EXIT", "true"),
        ("ENTRYWAY_NO_SPLICE", "1"),
        ("ENTRYWAY_WORKERS", ""),
    ];
    let settings = load_with(&[], &env).unwrap().settings;
    let endpoints = &settings.upstreams[0].endpoints;
    assert_eq!(endpoints.len(), 3);
    assert_eq!(endpoints[0].zone, Some(Zone::new("a")));
    assert_eq!(endpoints[0].name, Some(EndpointName::new("x")));
    let third = &load_with(&[], &env).unwrap().targets[0].endpoints[2];
    assert_eq!((third.host.as_str(), third.port), ("::2", 8182));
    assert_eq!(settings.listeners[0].bind.len(), 2);
    assert_eq!(
        settings.log.connections,
        crate::events::ConnectionEvents::Errors
    );
    assert_eq!(settings.log.probes, crate::events::Probes::Off);
    assert!(settings.dns.allow_local_answers && settings.shutdown.strict_exit);
    assert_eq!(settings.upstreams[0].splice, Splice::Off);
    assert_eq!(settings.runtime.workers, None);
}

#[test]
fn booleans_and_switches() {
    for (args, expected) in [
        (&["--allow-local-answers"][..], true),
        (&["--allow-local-answers=true"], true),
        (&["--allow-local-answers=1"], true),
        (&["--allow-local-answers=false"], false),
        (&["--allow-local-answers=0"], false),
    ] {
        let loaded = load_with(
            &with_endpoint(args),
            &[("ENTRYWAY_ALLOW_LOCAL_ANSWERS", "true")],
        )
        .unwrap();
        assert_eq!(
            loaded.settings.dns.allow_local_answers, expected,
            "{args:?}"
        );
    }
}

#[test]
fn words_numbers_and_off() {
    for (text, expected) in [
        ("\"none\"", ReadinessRule::None),
        ("\"any\"", ReadinessRule::Any),
        ("\"all\"", ReadinessRule::All),
        ("2", ReadinessRule::AtLeast(2)),
        ("\"2\"", ReadinessRule::AtLeast(2)),
    ] {
        let file = OneFile::new(format!("[readiness]\nupstream = {text}\n"));
        assert_eq!(
            file.load(&E, &[]).unwrap().settings.readiness.upstream,
            expected
        );
    }
    for (zone, expected) in [
        ("auto", ZoneSetting::Auto),
        ("none", ZoneSetting::None),
        ("use1-az1", ZoneSetting::Named(Zone::new("use1-az1"))),
    ] {
        let loaded = load_with(&with_endpoint(&["--zone", zone]), &[]).unwrap();
        assert_eq!(loaded.settings.upstreams[0].zone, expected);
    }
    let off = load_with(&with_endpoint(&["--admin", "off", "--control", "off"]), &[])
        .unwrap()
        .settings
        .admin;
    assert_eq!(
        (off.bind, off.control),
        (
            crate::admin::Bind::Off,
            Some(crate::admin::ControlPath::Off)
        )
    );
}

#[test]
fn a_target_replaces_the_target_below_it() {
    let file = OneFile::new(
        "[upstream]\nname = \"prod\"\npeering = true\nsystem = \"s\"\nregion = \"us-east-1\"\nzone = \"none\"\n",
    );
    let upstream = |args: &[&str], env: &[(&str, &str)]| {
        file.load(args, env).unwrap().settings.upstreams.remove(0)
    };

    let kept = upstream(&[], &[]);
    assert!(kept.peering && kept.endpoints.is_empty());
    let replaced = upstream(&["--endpoint", "h:1"], &[]);
    assert!(!replaced.peering && replaced.endpoints.len() == 1);
    assert_eq!(
        (replaced.zone, replaced.name),
        (ZoneSetting::None, UpstreamName::new("prod"))
    );
    let flag_wins = upstream(&["--vpce", VPCE], &[("ENTRYWAY_ENDPOINT", "h:1")]);
    assert!(flag_wins.endpoints.is_empty() && flag_wins.vpce.is_some() && !flag_wins.peering);
    // A system alone is no target: it corrects the file's.
    let corrected = upstream(&["--system", "other"], &[]);
    assert_eq!(
        (
            corrected.peering,
            corrected.system.as_deref(),
            corrected.region.as_deref()
        ),
        (true, Some("other"), Some("us-east-1"))
    );
}

#[test]
fn with_several_upstreams_flags_hold_for_each() {
    let file = OneFile::new(
        "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\nupstream = \"b\"\n\
         [[upstream]]\nname = \"a\"\nendpoint = \"a:1\"\n[[upstream]]\nname = \"b\"\nendpoint = [\"b:1?zone=z\", { address = \"c:1\" }]\n",
    );
    let loaded = file.load(&["--fall", "9"], &[]).unwrap();
    assert!(
        loaded
            .settings
            .upstreams
            .iter()
            .all(|upstream| upstream.health.fall == 9)
    );
    assert_eq!(loaded.settings.listeners[0].upstream, "b");
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(
        loaded.warnings[0].ends_with("entryway.toml:5: no listener uses upstream `a`"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn with_one_upstream_there_is_nothing_to_choose() {
    let file = OneFile::new("[upstream]\nname = \"prod\"\nendpoint = \"a:1\"\n");
    assert_eq!(
        file.load(&[], &[]).unwrap().settings.listeners[0].upstream,
        "prod"
    );
}

#[test]
fn the_wrapper_s_variables_ask_for_nothing() {
    let env = [
        ("ENTRYWAY_ADMIN", "127.0.0.1:9"),
        ("ENTRYWAY_URL", "http://127.0.0.1:8182"),
        ("ENTRYWAY_PORT", "8182"),
    ];
    let loaded = load_with(&E, &env).unwrap();
    assert!(!loaded.admin_asked_for);
    assert_eq!(loaded.warnings, [] as [&str; 0]);
    assert_eq!(
        loaded.settings.admin.bind,
        crate::admin::Bind::At("127.0.0.1:9".parse().unwrap())
    );
    assert!(!load_with(&E, &[]).unwrap().admin_asked_for);
    assert!(
        load_with(&with_endpoint(&["--admin", "127.0.0.1:0"]), &env)
            .unwrap()
            .admin_asked_for
    );
    assert!(
        OneFile::new("[admin]\nbind = \"127.0.0.1:0\"\n")
            .load(&E, &[])
            .unwrap()
            .admin_asked_for
    );
}

#[test]
fn unknown_variables_are_warnings() {
    let loaded = load_with(
        &E,
        &[("ENTRYWAY_FAL", "2"), ("ENTRYWAY_XYZ", "1"), ("HOME", "/")],
    )
    .unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "ENTRYWAY_FAL is not a setting and is ignored; did you mean ENTRYWAY_FALL?",
            "ENTRYWAY_XYZ is not a setting and is ignored",
        ]
    );
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let file = OneFile::new("[upstream]\nendpoint = \"a:1\"\n");
    let loaded = load_with(&[], &[("ENTRYWAY_CONFIG", &file.path())]).unwrap();
    assert_eq!(loaded.settings.upstreams[0].endpoints[0].address, "a:1");
    let flag_wins = load_with(&["-c", &file.path()], &[("ENTRYWAY_CONFIG", "/nowhere")]).unwrap();
    assert_eq!(flag_wins.file(), Some(file.path().as_str()));
}

#[test]
fn reload_reads_the_file_again_under_the_same_flags() {
    let file = OneFile::new("[upstream]\nendpoint = \"a:1\"\n");
    let before = file.load(&["--fall", "4"], &[]).unwrap();
    file.write("[listener]\nbind = \"127.0.0.1:0\"\nhold_max = 5\n[upstream]\nendpoint = \"b:1\"\nhealth.fall = 9\nhealth.rise = 3\n");
    let reload = before.reload().unwrap();
    let after = reload.in_force;
    assert_eq!(
        (
            after.settings.upstreams[0].health.fall,
            after.settings.upstreams[0].health.rise
        ),
        (4, 3)
    );
    let changes = reload.changes;
    assert_eq!(
        changes.applied,
        [
            "listener[datomic].hold_max",
            "upstream[default].endpoint",
            "upstream[default].health.rise"
        ]
    );
    assert_eq!(changes.restart, ["listener[datomic].bind"]);
    // What needs a restart is not in force.
    assert_eq!(
        after.settings.listeners[0].bind,
        before.settings.listeners[0].bind
    );
    assert_eq!(after.reload().unwrap().changes.applied, [] as [&str; 0]);

    file.write("[upstream]\nendpoint = \"b:1\"\nhealth.rise = \"x\"\n");
    assert!(after.reload().unwrap_err().plain().contains(":3:15"));
}

#[test]
fn effective_settings_name_their_source() {
    let file = OneFile::new(
        "profile = \"laptop\"\n[upstream]\nendpoint = \"a:1\"\n[upstream.failback]\nafter = \"5s\"\n",
    );
    let loaded = file
        .load(&["--fall", "4"], &[("ENTRYWAY_NO_SPLICE", "1")])
        .unwrap();
    let effective = loaded.effective();
    let at = |pointer: &str| {
        let entry = effective
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{pointer}: {effective:#}"));
        let source = entry["source"]
            .as_str()
            .unwrap()
            .replace(&file.path(), "entryway.toml");
        (entry["value"].clone(), source)
    };
    let is = |value: serde_json::Value, source: &str| (value, source.to_owned());
    assert_eq!(at("/upstream/0/health/fall"), is(4.into(), "flag"));
    assert_eq!(at("/upstream/0/health/rise"), is(2.into(), "default"));
    assert_eq!(at("/upstream/0/splice"), is("off".into(), "env"));
    assert_eq!(
        at("/upstream/0/endpoint/0/address"),
        is("a:1".into(), "entryway.toml:3")
    );
    assert_eq!(
        at("/upstream/0/failback/dwell"),
        is("5s".into(), "entryway.toml:5")
    );
    assert_eq!(
        at("/upstream/0/vpce"),
        is(serde_json::Value::Null, "default")
    );
    assert_eq!(at("/listener/0/hold_timeout"), is("30s".into(), "profile"));
    assert_eq!(
        at("/listener/0/max_connections"),
        is(serde_json::Value::Null, "default")
    );
    assert_eq!(
        at("/listener/0/bind").0,
        serde_json::json!(["127.0.0.1:8182", "[::1]:8182"])
    );
    assert_eq!(at("/profile"), is("laptop".into(), "entryway.toml:1"));
    assert_eq!(at("/schema"), is(1.into(), "default"));
}

#[test]
fn a_reload_matches_listeners_and_upstreams_by_name() {
    let two = |first: &str, second: &str| {
        let one = |name: &str, port: u16| {
            format!(
                "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\nupstream = \"{name}\"\n[[upstream]]\nname = \"{name}\"\nendpoint = \"{name}.example:1\"\n"
            )
        };
        let port = |name: &str| 7000 + name.bytes().map(u16::from).sum::<u16>();
        one(first, port(first)) + &one(second, port(second))
    };
    let file = OneFile::new(two("a", "b"));
    let before = file.load(&[], &[]).unwrap();
    file.write(two("b", "a"));
    assert_eq!(before.reload().unwrap().changes, Changes::default());
    // One that is new, or gone, is named as a whole and not in force.
    file.write(two("a", "c"));
    let reload = before.reload().unwrap();
    assert_eq!(
        reload.changes.restart,
        ["listener[b]", "listener[c]", "upstream[b]", "upstream[c]"]
    );
    assert_eq!(reload.changes.applied, [] as [&str; 0]);
    assert_eq!(reload.in_force.settings, before.settings);
}

/// Another valid value for each key: a reload either applies it, or names it and keeps the old one in force.
#[test]
fn a_reload_accounts_for_every_key() {
    let base = "[listener]\n[upstream]\nendpoint = \"a:1\"\n[dns]\n[admin]\n[log]\n";
    let file = OneFile::new(base);
    let before = file.load(&[], &[]).unwrap();
    let mut keys = 0;
    for (key, value, _) in before.lines() {
        let bare = super::super::ranges::without_indices(&key);
        let Some(other) = other_value(&bare, &value) else {
            continue;
        };
        let (table, name) = bare.rsplit_once('.').unwrap_or(("", &bare));
        let toml = match table {
            "" => format!("{name} = {other}\n{base}"),
            "listener" | "upstream" | "dns" | "admin" | "log" => base.replace(
                &format!("[{table}]\n"),
                &format!("[{table}]\n{name} = {other}\n"),
            ),
            _ => format!("{base}[{table}]\n{name} = {other}\n"),
        };
        file.write(&toml);
        let reload = before
            .reload()
            .unwrap_or_else(|error| panic!("{toml}\n{error}"));
        let named = |list: &[String]| {
            list.iter()
                .any(|changed| super::super::ranges::without_indices(changed) == bare)
        };
        let (applied, restart) = (
            named(&reload.changes.applied),
            named(&reload.changes.restart),
        );
        assert!(applied != restart, "{bare}: {:?}", reload.changes);
        let in_force = reload
            .in_force
            .lines()
            .into_iter()
            .find(|(now, ..)| *now == key)
            .unwrap()
            .1;
        assert_eq!(in_force != value, applied, "{bare}");
        keys += 1;
    }
    assert!(keys > 45, "{keys}");
}

fn other_value(key: &str, value: &str) -> Option<String> {
    let quoted = |text: &str| Some(format!("\"{text}\""));
    match key {
        // Structure and targets; other tests change them.
        "schema" | "listener.name" | "upstream.name" | "listener.upstream" => None,
        "gateway.allow" => None,
        // Parts that this build does not have.
        key if cfg!(not(feature = "gateway")) && key.starts_with("gateway.") => None,
        key if cfg!(not(feature = "faults")) && key.starts_with("faults.") => None,
        // Its keys hang together; each has a test of its own.
        key if key.starts_with("upstream.via") || key == "upstream.endpoint.via" => None,
        "upstream.vpce" | "upstream.nlb" | "upstream.peering" | "upstream.from_client" => None,
        "upstream.endpoint.address" | "upstream.endpoint.zone" | "upstream.endpoint.name" => None,
        // Needs another probe kind.
        "upstream.health.expect_body" => None,
        "listener.bind" | "gateway.bind" => quoted("127.0.0.1:7"),
        "gateway.cert" | "gateway.key" | "gateway.client_ca" | "gateway.crl" => {
            quoted("/tmp/other.pem")
        }
        "listener.max_connections" | "runtime.workers" => Some("3".to_owned()),
        "listener.when_all_down" => quoted("try"),
        "listener.front" => quoted("socks"),
        "listener.front_allow" => Some("[\"a.example\"]".to_owned()),
        "upstream.framing" => quoted("none"),
        "upstream.system" => quoted("other"),
        "upstream.region" => quoted("eu-west-1"),
        "upstream.query_group" => quoted("reports"),
        "upstream.zone" => quoted("none"),
        "upstream.splice" | "upstream.failback.rebalance" | "log.probes" | "log.libraries" => {
            quoted("off")
        }
        "upstream.pipe_size" => quoted("128KiB"),
        "upstream.health.kind" => quoted("tcp"),
        "upstream.health.path" => quoted("/other"),
        "upstream.health.expect_s3_auth_path" => quoted("off"),
        "upstream.health.on_down" => quoted("keep"),
        "upstream.hedge_after" => quoted("300ms"),
        "upstream.health.fast_interval" => quoted("300ms"),
        "dns.resolver" => quoted("system"),
        "dns.servers" => Some("[\"10.0.0.2\"]".to_owned()),
        "admin.bind" | "admin.metrics_bind" => quoted("127.0.0.1:7"),
        "faults.bind" => quoted("127.0.0.1:7"),
        "admin.control" => quoted("/tmp/other.sock"),
        "admin.token_file" => quoted("/tmp/token"),
        "admin.allowed_hosts" => Some("[\"ops.example\"]".to_owned()),
        "profile" => quoted("load"),
        "readiness.upstream" => quoted("any"),
        "log.format" => quoted("json"),
        "log.level" => quoted("debug"),
        "log.connections" => quoted("errors"),
        "runtime.loopback_congestion" => quoted("system"),
        "runtime.sandbox" => quoted("off"),
        _ => match value {
            "true" => Some("false".to_owned()),
            "false" => Some("true".to_owned()),
            number if number.parse::<u32>().is_ok() => {
                Some((number.parse::<u32>().unwrap() + 1).to_string())
            }
            _ => quoted(&crate::duration::show(
                crate::duration::parse(value).unwrap_or_else(|error| panic!("{key}: {error}"))
                    + std::time::Duration::from_secs(1),
            )),
        },
    }
}

#[test]
fn settings_survive_being_shown_and_read_back() {
    let loaded = load_with(&E, &[]).unwrap();
    let file = OneFile::new("[upstream]\nendpoint = \"a.example:8182\"\n");
    let before = file.load(&[], &[]).unwrap();
    let reload = before.reload().unwrap();
    assert_eq!(reload.in_force.settings, before.settings);
    assert_eq!(loaded.settings, before.settings);
}

#[test]
fn a_zone_that_no_endpoint_has_is_a_warning() {
    for (args, warning) in [
        (
            &[
                "-e",
                "a.example:1?zone=a",
                "-e",
                "b.example:1?zone=b",
                "--zone",
                "zzz",
            ][..],
            Some("a, b"),
        ),
        (
            &["-e", "a.example:1", "--zone", "a"],
            Some("HOST:PORT?zone=ZONE"),
        ),
        (&["-e", "a.example:1?zone=a", "--zone", "a"], None),
        (&["-e", "a.example:1?zone=a", "--zone", "none"], None),
        (&["--vpce", VPCE, "--zone", "us-east-1a"], None),
    ] {
        let warnings = load_with(args, &[]).unwrap().warnings;
        match warning {
            Some(text) => assert!(
                warnings.len() == 1 && warnings[0].contains(text),
                "{warnings:?}"
            ),
            None => assert_eq!(warnings, [] as [&str; 0], "{args:?}"),
        }
    }
}

/// In force all the same: secrets that Kubernetes mounts are like that.
#[test]
fn a_token_that_others_may_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let token = tempfile::NamedTempFile::new().unwrap();
    let path = token.path().display().to_string();
    let file = OneFile::new(format!("admin.token_file = \"{path}\"\n"));
    for (mode, is_open) in [(0o600, false), (0o400, false), (0o440, true), (0o644, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = file.load(&E, &[]).unwrap();
        assert_eq!(loaded.settings.admin.token_file, Some(path.clone().into()));
        match (&loaded.warnings[..], is_open) {
            ([], false) => {}
            ([one], true) => {
                let mended = one.contains(&format!("chmod 600 {path}"));
                assert!(mended && one.contains(&format!("{mode:04o}")), "{one}");
            }
            (other, _) => panic!("{mode:o}: {other:?}"),
        }
    }
}

#[test]
fn what_an_instance_without_admin_http_lacks_is_said() {
    let warned = |args: &[&str]| {
        let loaded = load_with(&with_endpoint(args), &[]).unwrap();
        loaded.warnings.join("\n")
    };
    let said = warned(&["--admin", "off"]);
    assert!(
        said.contains("admin HTTP is off") && said.contains("asks the control socket"),
        "{said}"
    );
    let said = warned(&["--admin", "off", "--control", "off"]);
    assert!(
        said.contains("signals are the only way in") && said.contains("healthcheck"),
        "{said}"
    );
    assert!(!warned(&[]).contains("off"));
}
