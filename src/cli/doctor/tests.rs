use std::ffi::OsString;

use super::*;
use crate::admin::api_types::{AddressJson, EndpointJson, ListenerJson, UpstreamJson};

async fn run_with(line: &[&str], env: &[(&str, &str)]) -> (Result<u8, CliError>, String) {
    let matches = args::command().get_matches_from([&["entryway", "doctor"], line].concat());
    let (_, matches) = matches.subcommand().unwrap();
    let env: Vec<(OsString, OsString)> = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    let mut out = Vec::new();
    let code = run(matches, env.into_iter(), &mut out).await;
    (code, String::from_utf8(out).unwrap())
}

async fn doctor(line: &[&str]) -> (Result<u8, CliError>, String) {
    run_with(line, &[]).await
}

#[tokio::test]
async fn messages_are_explained_and_unknown_ones_are_not_guessed() {
    let (code, text) = doctor(&["--message", "OPS LIMIT reached:\n 64"]).await;
    assert_eq!(code, Ok(0));
    assert!(
        text.contains("pending-ops-limit") && text.contains("step "),
        "{text}"
    );
    let (code, text) = doctor(&["--message", "kaboom\u{1b}[2J"]).await;
    assert_eq!(code, Ok(0));
    assert!(
        text.starts_with("unknown: kaboom?[2J") && text.contains("not known"),
        "{text}"
    );
    let line = [
        "--message",
        "Forbidden to read keyfile at s3://b/k",
        "--output",
        "json",
    ];
    let (_, text) = doctor(&line).await;
    let json: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&json["schema_version"], &json["rule"]),
        (&1.into(), &"KEYFILE".into())
    );
    let (_, text) = doctor(&["--message", "kaboom", "--output", "json"]).await;
    let json: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(json["known"], false);
}

#[test]
fn a_message_is_read_from_standard_input() {
    let text = message_text("-", &mut "a trace\nof lines".as_bytes()).unwrap();
    assert_eq!(text, "a trace\nof lines");
    assert_eq!(message_text("busy", &mut io::empty()).unwrap(), "busy");
    let error = message_text("-", &mut " \n".as_bytes()).unwrap_err();
    assert_eq!(error.code, code::NOT_UNDERSTOOD);
}

#[tokio::test]
async fn wrong_settings_are_a_check_of_their_own_and_exit_code_78() {
    for line in [
        &[
            "--endpoint",
            "https://x.execute-api.us-east-1.amazonaws.com:443",
            "--output",
            "json",
        ][..],
        &["--vpce", "vpce-nonsense", "--output", "json"],
        &["--peering", "--system", "prod", "--output", "json"],
        &[
            "--from-client",
            "/nonexistent/client.edn",
            "--output",
            "json",
        ],
    ] {
        let (code, text) = doctor(line).await;
        assert_eq!(code, Ok(78), "{line:?}: {text}");
        let json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(json["verdict"], "FAIL");
        assert_eq!(json["checks"][0]["stage"], "settings", "{text}");
        assert!(!json["checks"][0]["causes"].as_array().unwrap().is_empty());
    }
}

#[tokio::test]
async fn without_target_and_instance_there_is_nothing_to_examine() {
    let (code, text) = doctor(&["--admin", "127.0.0.1:1"]).await;
    let error = code.unwrap_err();
    assert_eq!(
        (error.code, text.as_str()),
        (code::NOT_THERE, ""),
        "{error}"
    );
    assert!(error.next.contains("--endpoint"), "{error}");
}

#[tokio::test]
async fn odd_variables_are_warnings() {
    let line = [
        "-e",
        "127.0.0.1:1",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:1",
    ];
    let (code, text) = run_with(&line, &[("ENTRYWAY_ENDPONT", "x:1")]).await;
    assert_eq!(code, Ok(1), "{text}");
    assert!(
        text.contains("WARN  settings") && text.contains("ENTRYWAY_ENDPOINT"),
        "{text}"
    );
    assert!(
        text.contains("FAIL  tcp") && text.contains("verdict: FAIL"),
        "{text}"
    );
}

/// What an instance tells becomes what is examined: its endpoints, its timers, its own listen addresses.
#[test]
fn an_instance_is_a_subject() {
    let status = StatusJson {
        pid: 7,
        listeners: vec![ListenerJson {
            addresses: vec!["127.0.0.1:9000".to_owned()],
            ..ListenerJson::default()
        }],
        upstreams: vec![UpstreamJson {
            name: "prod".to_owned(),
            system: Some("sys".to_owned()),
            ..UpstreamJson::default()
        }],
        ..StatusJson::default()
    };
    let endpoints = Endpoints {
        endpoints: vec![EndpointJson {
            upstream: "prod".to_owned(),
            name: "entry-http".to_owned(),
            host: "entry-http.sys.us-east-1.datomic.net".to_owned(),
            port: 8182,
            addresses: vec![AddressJson {
                address: "10.0.0.1:8182".to_owned(),
                state: "down".to_owned(),
                reason: "timeout".to_owned(),
                ..AddressJson::default()
            }],
            ..EndpointJson::default()
        }],
    };
    let value = |value: Json| json!({"value": value, "source": "file"});
    let config = json!({"schema_version": 1, "settings": {
        "dns": {"servers": value(json!(["10.0.0.2:53"])), "timeout": value(json!("1s"))},
        "shutdown": {"max_delay": value(json!("90s"))},
        "upstream": [{
            "name": value(json!("prod")),
            "vpce": value(Json::Null),
            "health": {"kind": value(json!("datomic")), "fall": value(json!(5))},
            "tcp": {"keepalive": value(json!("400s"))},
        }],
    }});
    let subject = of_instance(&status, &endpoints, &config);
    assert!(subject.odd.is_empty(), "{:?}", subject.odd);
    assert_eq!(subject.listen, ["127.0.0.1:9000".parse().unwrap()]);
    assert_eq!(subject.dns.servers, ["10.0.0.2:53".parse().unwrap()]);
    assert_eq!(subject.timers.max_drain, Duration::from_secs(90));
    let target = &subject.targets[0];
    assert_eq!(target.keepalive, Duration::from_secs(400));
    assert_eq!(
        (target.health.fall, target.endpoints[0].role),
        (5, Role::Peered)
    );
    let instance = subject.instance.unwrap();
    assert_eq!((instance.pid, instance.down.len()), (7, 1));
    // What cannot be read is said, and the rest goes on.
    let subject = of_instance(&status, &endpoints, &json!({"settings": {"what": 1}}));
    assert!(subject.odd[0].contains("/v1/config"), "{:?}", subject.odd);
}

/// The whole of what this version shows can be read back.
#[test]
fn the_effective_settings_can_be_read_back() {
    let line = [
        "entryway",
        "doctor",
        "--endpoint=db:8182?zone=a",
        "--fall=4",
        "--listen=127.0.0.1:9000",
    ];
    let matches = args::command().get_matches_from(line);
    let (_, matches) = matches.subcommand().unwrap();
    let loaded = settings::load(matches, std::iter::empty::<(OsString, OsString)>(), true).unwrap();
    let read = settings_of(&json!({"settings": loaded.effective()}));
    assert_eq!(read.as_ref(), Ok(&loaded.settings));
}
