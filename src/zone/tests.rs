use std::collections::HashMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const NAME: &str = "/latest/meta-data/placement/availability-zone";
const ID: &str = "/latest/meta-data/placement/availability-zone-id";

/// A metadata service that answers by path; a path it does not have hangs.
struct Service {
    base: String,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn service(answers: &[(&str, &str)]) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answers: HashMap<String, String> = answers
        .iter()
        .map(|(request, answer)| ((*request).to_owned(), (*answer).to_owned()))
        .collect();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let request = head.split(" HTTP").next().unwrap().to_owned();
            let needs_token = request.starts_with("GET /latest");
            if needs_token && !head.contains("token: secret") {
                continue;
            }
            if let Some(answer) = answers.get(&request) {
                let (status, body) = answer.split_once(' ').unwrap();
                let length = body.len();
                let text = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(text.as_bytes()).await;
            }
            open.push(stream);
        }
    });
    Service { base, task }
}

async fn imds(answers: &[(&str, &str)]) -> Service {
    let token = ("PUT /latest/api/token", "200 secret");
    service(&[&[token], answers].concat()).await
}

fn services(ecs: Option<&Service>, imds: Option<&Service>) -> MetadataServices {
    let base = |service: &Service| MetadataUrl::parse(&service.base).unwrap();
    MetadataServices {
        ecs: ecs.map(base),
        imds: imds.map(base),
    }
}

fn found(lookup: &ZoneLookup) -> (Option<&str>, Option<&str>, ZoneSource) {
    let (own, source) = lookup
        .found
        .as_ref()
        .unwrap_or_else(|| panic!("{lookup:?}"));
    let text = |zone: &Option<Zone>| {
        zone.as_ref()
            .map(|zone| zone.as_str().to_owned().leak() as &str)
    };
    (text(&own.name), text(&own.id), *source)
}

fn get(path: &str) -> String {
    format!("GET {path}")
}

#[tokio::test]
async fn an_instance_tells_name_and_id() {
    let imds = imds(&[(&get(NAME), "200 us-east-1a"), (&get(ID), "200 use1-az4\n")]).await;
    let lookup = find(&ZoneSetting::Auto, &services(None, Some(&imds)), false).await;
    assert_eq!(
        found(&lookup),
        (Some("us-east-1a"), Some("use1-az4"), ZoneSource::Imds)
    );
}

#[tokio::test]
async fn an_old_instance_tells_its_name() {
    let imds = imds(&[(&get(NAME), "200 us-east-1a"), (&get(ID), "404 no")]).await;
    let lookup = find(&ZoneSetting::Auto, &services(None, Some(&imds)), false).await;
    assert_eq!(found(&lookup), (Some("us-east-1a"), None, ZoneSource::Imds));
}

#[tokio::test]
async fn a_task_is_asked_first() {
    let ecs = service(&[(
        "GET /task",
        r#"200 {"Cluster":"x","AvailabilityZone":"us-west-1c"}"#,
    )])
    .await;
    let imds = imds(&[(&get(NAME), "200 us-west-1c"), (&get(ID), "200 usw1-az3")]).await;
    let both = services(Some(&ecs), Some(&imds));
    let lookup = find(&ZoneSetting::Auto, &both, false).await;
    assert_eq!(found(&lookup), (Some("us-west-1c"), None, ZoneSource::Ecs));
    let lookup = find(&ZoneSetting::Auto, &both, true).await;
    assert_eq!(
        found(&lookup),
        (Some("us-west-1c"), Some("usw1-az3"), ZoneSource::Ecs)
    );
}

#[tokio::test]
async fn services_that_hang_lie_or_answer_html_cost_a_second_at_most() {
    let page = "200 <html><body>Sign in</body></html>";
    let long = format!("200 {}", "a".repeat(100_000));
    for (answers, words) in [
        (vec![], "hop limit"),
        (
            vec![("PUT /latest/api/token", page)],
            "something else than a token",
        ),
        (vec![("PUT /latest/api/token", "403 no")], "switched off"),
        (vec![("PUT /latest/api/token", long.as_str())], "longer"),
        (
            vec![("PUT /latest/api/token", "200 secret")],
            "no answer within",
        ),
        (
            vec![
                ("PUT /latest/api/token", "200 secret"),
                ("GET /latest/meta-data/placement/availability-zone", page),
            ],
            "no zone",
        ),
    ] {
        let imds = service(&answers).await;
        let begun = Instant::now();
        let lookup = find(&ZoneSetting::Auto, &services(None, Some(&imds)), false).await;
        assert!(begun.elapsed() < WITHIN + Duration::from_secs(2));
        assert_eq!(lookup.found, None, "{words}");
        assert!(lookup.failed[0].1.contains(words), "{words}: {lookup:?}");
    }
    for (answer, words) in [
        (page, "a task's JSON"),
        ("200 {}", "no AvailabilityZone"),
        (r#"200 {"AvailabilityZone":"<b>"}"#, "is no zone"),
        (r#"200 {"AvailabilityZone":7}"#, "a task's JSON"),
        ("500 x", "answered 500"),
    ] {
        let ecs = service(&[("GET /task", answer)]).await;
        let lookup = find(&ZoneSetting::Auto, &services(Some(&ecs), None), false).await;
        assert!(lookup.failed[0].1.contains(words), "{words}: {lookup:?}");
    }
}

#[tokio::test]
async fn a_hanging_task_service_leaves_time_for_the_instance() {
    let ecs = service(&[]).await;
    let imds = imds(&[(&get(NAME), "200 us-east-1a"), (&get(ID), "200 use1-az4")]).await;
    let lookup = find(
        &ZoneSetting::Auto,
        &services(Some(&ecs), Some(&imds)),
        false,
    )
    .await;
    assert_eq!(found(&lookup).2, ZoneSource::Imds);
    assert_eq!(lookup.failed[0].0, ZoneSource::Ecs);
}

#[tokio::test]
async fn the_setting_wins_and_metadata_adds_the_other_name() {
    let imds = imds(&[(&get(NAME), "200 us-east-1a"), (&get(ID), "200 use1-az4")]).await;
    let here = services(None, Some(&imds));
    let is = |zone: &str| ZoneSetting::Named(Zone::new(zone));
    let lookup = find(&is("use1-az4"), &here, false).await;
    assert_eq!(
        found(&lookup),
        (Some("us-east-1a"), Some("use1-az4"), ZoneSource::Setting)
    );
    let lookup = find(&is("us-east-1a"), &here, true).await;
    assert_eq!(
        found(&lookup),
        (Some("us-east-1a"), Some("use1-az4"), ZoneSource::Setting)
    );
    let lookup = find(&is("use1-az1"), &here, false).await;
    assert_eq!(
        found(&lookup),
        (None, Some("use1-az1"), ZoneSource::Setting)
    );
    let other = lookup.contradiction.unwrap();
    assert_eq!(other.id, Some(Zone::new("use1-az4")));
    let lookup = find(&is("us-east-1b"), &here, false).await;
    assert_eq!(
        found(&lookup),
        (Some("us-east-1b"), None, ZoneSource::Setting)
    );
    let other = lookup.contradiction.unwrap();
    assert_eq!(other.name, Some(Zone::new("us-east-1a")));
    let lookup = find(&is("us-east-1a"), &here, false).await;
    assert_eq!(lookup.contradiction, None);
    let nobody = MetadataServices::default();
    let lookup = find(&is("a"), &nobody, false).await;
    assert_eq!(found(&lookup), (Some("a"), None, ZoneSource::Setting));
    assert_eq!(
        find(&ZoneSetting::None, &here, false).await,
        ZoneLookup::default()
    );
    assert_eq!(
        find(&ZoneSetting::Auto, &nobody, false).await,
        ZoneLookup::default()
    );
}

#[tokio::test]
async fn a_task_that_knows_its_zone_id_needs_no_instance() {
    let ecs = service(&[(
        "GET /task",
        r#"200 {"AvailabilityZone":"us-west-1c","AvailabilityZoneID":"usw1-az3"}"#,
    )])
    .await;
    let lookup = find(&ZoneSetting::Auto, &services(Some(&ecs), None), true).await;
    assert_eq!(
        found(&lookup),
        (Some("us-west-1c"), Some("usw1-az3"), ZoneSource::Ecs)
    );
}

#[test]
fn the_metadata_service_is_where_the_sdks_look_for_it() {
    let endpoint = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    let mode = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
    for (vars, target) in [
        (&[][..], Some("169.254.169.254:80")),
        (&[(mode, "IPv4")], Some("169.254.169.254:80")),
        (&[(mode, "IPv6")], Some("[fd00:ec2::254]:80")),
        (&[(mode, "ipv6")], Some("[fd00:ec2::254]:80")),
        (
            &[(endpoint, "http://[fd00::1]:81"), (mode, "IPv4")],
            Some("[fd00::1]:81"),
        ),
        (
            &[(endpoint, ""), (mode, "IPv6")],
            Some("[fd00:ec2::254]:80"),
        ),
        (
            &[("AWS_EC2_METADATA_DISABLED", "true"), (mode, "IPv6")],
            None,
        ),
    ] {
        let get = |name: &str| {
            let found = vars.iter().find(|(var, _)| *var == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (services, invalid) = MetadataServices::from_env(get);
        let found = services.imds.map(|url| url.target.to_string());
        assert_eq!(found.as_deref(), target, "{vars:?}");
        assert!(invalid.is_empty());
    }
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = MetadataUrl::parse(&format!("http://{}", closed.local_addr().unwrap())).unwrap();
    drop(closed);
    let services = MetadataServices {
        ecs: None,
        imds: Some(base),
    };
    let lookup = find(&ZoneSetting::Auto, &services, false).await;
    assert!(lookup.failed[0].1.contains("no EC2 instance"), "{lookup:?}");
}

#[test]
fn our_zone_is_told_in_the_endpoints_words() {
    let own = OwnZone {
        name: Some(Zone::new("us-east-1a")),
        id: Some(Zone::new("use1-az4")),
    };
    let ids = [Zone::new("use1-az1"), Zone::new("use1-az4")];
    assert_eq!(own.matching(&ids), Some(Zone::new("use1-az4")));
    assert_eq!(own.matching(&[]), Some(Zone::new("us-east-1a")));
    assert_eq!(OwnZone::default().matching(&ids), None);
}

#[test]
fn texts_are_read() {
    for (url, target) in [
        (
            "http://169.254.170.2/v4/abc-1",
            Some(("169.254.170.2:80", "/v4/abc-1")),
        ),
        ("http://[fd00:ec2::254]/", Some(("[fd00:ec2::254]:80", ""))),
        ("http://127.0.0.1:81", Some(("127.0.0.1:81", ""))),
        ("https://x", None),
        ("http://", None),
        ("http://x:y/", None),
    ] {
        let base = MetadataUrl::parse(url)
            .ok()
            .map(|base| (base.target.to_string(), base.prefix));
        let expected = target.map(|(target, prefix)| (target.to_owned(), prefix.to_owned()));
        assert_eq!(base, expected, "{url}");
    }
    let vars = |name: &str| match name {
        "ECS_CONTAINER_METADATA_URI_V4" => Some("ftp://x".to_owned()),
        "AWS_EC2_METADATA_DISABLED" => Some("True".to_owned()),
        _ => None,
    };
    let (services, bad) = MetadataServices::from_env(vars);
    assert_eq!((services, bad.len()), (MetadataServices::default(), 1));
    let (services, _) = MetadataServices::from_env(|_| None);
    assert_eq!(services.imds, Some(MetadataUrl::imds()));
}
