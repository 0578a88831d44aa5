//! Documents to paste: client map, deployment, infrastructure, monitoring; made from the settings in force.
//!
//! Owns the texts. Those under `config/deploy` are whole files with a sample target; a snippet is the same file with
//! the sample replaced, so nothing is written twice. Resolves nothing and reads no file. `tests/snippets` holds what
//! every kind prints for one input (rewritten with `ENTRYWAY_BLESS=1`), `tests/snippets/check` runs their own tools.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde_json::json;

use crate::edn;
use crate::target::ResolvedTarget;

const SERVICE: &str = include_str!("../config/deploy/entryway.service");
const KUBERNETES: &str = include_str!("../config/deploy/kubernetes.yaml");
const ECS: &str = include_str!("../config/deploy/ecs.json");
const COMPOSE: &str = include_str!("../config/deploy/compose.yaml");
const CLOUDFORMATION: &str = include_str!("../config/deploy/cloudformation.yaml");
const TERRAFORM: &str = include_str!("../config/deploy/terraform.tf");
const AWS: &str = include_str!("../config/deploy/aws.sh");
const PROMETHEUS: &str = include_str!("../config/deploy/prometheus.yaml");
const ALERTS: &str = include_str!("../config/deploy/alerts.yaml");
const GRAFANA: &str = include_str!("../config/deploy/grafana.json");

/// The target in the files under `config/deploy`.
const SAMPLE: &str = "--vpce=REPLACE-WITH-YOUR-ENDPOINT-NAME";
/// The drain they allow for, in seconds, and the margin before the process is killed.
const SAMPLE_DRAIN: u64 = 25;
const MARGIN: u64 = 10;
/// ECS waits no longer than this.
const ECS_LONGEST: u64 = 120;

/// Which document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnippetKind {
    /// The application's client map.
    Edn,
    /// An interface endpoint, as a template.
    Cloudformation,
    /// The same as HCL.
    Terraform,
    /// The same as CLI lines, and peering's.
    Aws,
    /// A native sidecar.
    K8s,
    /// A task definition.
    Ecs,
    /// A compose file.
    Compose,
    /// A hardened unit.
    Systemd,
    /// A scrape job.
    Prometheus,
    /// Alert rules.
    Alerts,
    /// A dashboard.
    Grafana,
    /// A catalog file of Trino.
    Trino,
    /// A dashboard over the embedded metrics.
    Cloudwatch,
    /// A component that adds the sidecar to any Deployment.
    Kustomize,
}

/// A document that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no snippet {0:?}; there are: {list}", list = SnippetKind::ALL.map(SnippetKind::as_str).join(" "))]
pub struct UnknownKind(pub String);

/// What the documents are made from.
#[derive(Clone, Debug)]
pub struct SnippetInput {
    /// Where the upstream leads; without endpoints the sample target stays.
    pub target: ResolvedTarget,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where admin listens.
    pub admin: SocketAddr,
    /// How long a drain may take.
    pub max_drain: Duration,
    /// The container image.
    pub image: String,
    /// The settings file these settings come from, with its whole path; the unit starts with it.
    pub config: Option<String>,
}

/// What a deployment printed from these settings leaves to be filled in; `None` where nothing is missing.
pub fn missing(kind: SnippetKind, input: &SnippetInput) -> Option<String> {
    let target = input.target.endpoints.is_empty() && input.config.is_none();
    let image = input.image == SnippetInput::default().image;
    let parts: Vec<&str> = match kind {
        SnippetKind::Systemd => vec![(target, "the target")],
        SnippetKind::K8s | SnippetKind::Ecs | SnippetKind::Compose => vec![
            (input.target.endpoints.is_empty(), "the target"),
            (image, "the image (config/deploy/Containerfile builds one)"),
        ],
        _ => Vec::new(),
    }
    .into_iter()
    .filter_map(|(missing, what)| missing.then_some(what))
    .collect();
    (!parts.is_empty()).then(|| format!("put {} where REPLACE stands", parts.join(" and ")))
}

/// The document, with a final newline.
pub fn render(kind: SnippetKind, input: &SnippetInput) -> String {
    match kind {
        SnippetKind::Edn => client_map(input),
        SnippetKind::Cloudformation => named(
            CLOUDFORMATION,
            "    Default: SYSTEM\n",
            &input.target.system,
        ),
        SnippetKind::Terraform => named(
            TERRAFORM,
            "  default     = \"SYSTEM\"\n",
            &input.target.system,
        ),
        SnippetKind::Aws => {
            let text = named(
                AWS,
                "SYSTEM='SYSTEM'",
                &input.target.system.clone().or(Some("SYSTEM".to_owned())),
            );
            named(
                &text,
                "REGION='REGION'",
                &input.target.region.clone().or(Some("REGION".to_owned())),
            )
        }
        SnippetKind::K8s => {
            let text =
                KUBERNETES.replace("Seconds: 60", &format!("Seconds: {}", drain(input) + 35));
            deploy(&text, input, "\n            - ", true)
        }
        SnippetKind::Ecs => {
            let stop = (drain(input) + MARGIN).min(ECS_LONGEST);
            let text = ECS.replace("\"stopTimeout\": 35", &format!("\"stopTimeout\": {stop}"));
            deploy(&text, input, ",\n        ", true)
        }
        SnippetKind::Compose => {
            let stop = drain(input) + MARGIN;
            let text = COMPOSE.replace(
                "stop_grace_period: 35s",
                &format!("stop_grace_period: {stop}s"),
            );
            deploy(&text, input, "\n      - ", true)
        }
        SnippetKind::Systemd => {
            let stop = drain(input) + MARGIN;
            let text = SERVICE.replace("TimeoutStopSec=35", &format!("TimeoutStopSec={stop}"));
            deploy(&text, input, " ", false)
        }
        SnippetKind::Prometheus => PROMETHEUS.replace("127.0.0.1:8183", &input.admin.to_string()),
        SnippetKind::Alerts => ALERTS.to_owned(),
        SnippetKind::Grafana => GRAFANA.to_owned(),
        SnippetKind::Trino => trino(input),
        SnippetKind::Cloudwatch => cloudwatch(input),
        SnippetKind::Kustomize => kustomize(&render(SnippetKind::K8s, input)),
    }
}

fn client_map(input: &SnippetInput) -> String {
    let line = |key: &str, value: &Option<String>, missing: &str| match value {
        Some(value) => format!(" {key:<12} {}\n", edn::quote(value)),
        None => format!(" {key:<12} {} ; put yours\n", edn::quote(missing)),
    };
    let group = match &input.target.query_group {
        Some(_) => line(":query-group", &input.target.query_group, ""),
        None => String::new(),
    };
    [
        "{:server-type :cloud\n",
        &line(":region", &input.target.region, "REGION"),
        &line(":system", &input.target.system, "SYSTEM"),
        &group,
        &format!(" {:<12} {}}}\n", ":endpoint", edn::quote(&input.url())),
    ]
    .concat()
}

/// A catalog file: a property is one line, so the client map is too.
fn trino(input: &SnippetInput) -> String {
    let map = client_map(input);
    let lines = map
        .lines()
        .map(|line| line.split(" ; ").next().unwrap_or(line).trim());
    let missing = match map.contains("; put yours") {
        true => "# REGION and SYSTEM are to be filled in.\n",
        false => "",
    };
    format!(
        "# etc/catalog/datomic.properties of Trino; entryway runs beside each coordinator and worker.\n{missing}\
         connector.name=datomic\ndatomic.client.config={}\n",
        lines.collect::<Vec<_>>().join(" ")
    )
}

/// The body of a CloudWatch dashboard over what `metrics.emf` prints:
/// `aws cloudwatch put-dashboard --dashboard-name entryway --dashboard-body file://FILE`.
fn cloudwatch(input: &SnippetInput) -> String {
    let region = input.target.region.as_deref().unwrap_or("us-east-1");
    let widget = |index: usize, title: &str, names: &[&str], stat: &str| {
        let metric = |name: &&str| {
            json!([{"expression": format!(
            "SEARCH('{{entryway,upstream}} MetricName=\"{name}\"', '{stat}', 60)"
        ), "label": format!("{name} ${{PROP('Dim.upstream')}}")}])
        };
        json!({
            "type": "metric", "width": 12, "height": 6, "x": 12 * (index % 2), "y": 6 * (index / 2),
            "properties": {
                "title": title, "region": region, "view": "timeSeries", "period": 60,
                "metrics": names.iter().map(metric).collect::<Vec<_>>(),
            },
        })
    };
    let widgets = [
        (
            "Healthy addresses",
            &["healthy_addresses", "addresses"][..],
            "Minimum",
        ),
        ("Connections", &["connections"], "Maximum"),
        (
            "Failovers and failbacks",
            &["failovers", "failbacks"],
            "Sum",
        ),
        ("Bytes", &["bytes_upload", "bytes_download"], "Sum"),
    ];
    let widgets: Vec<_> = widgets
        .into_iter()
        .enumerate()
        .map(|(index, (title, names, stat))| widget(index, title, names, stat))
        .collect();
    format!("{:#}\n", json!({"widgets": widgets}))
}

/// The sidecar and its volume out of the Deployment, as a component for any other Deployment.
fn kustomize(deployment: &str) -> String {
    let between = |start: &str, end: &str| {
        let rest = deployment.split_once(start).map_or("", |(_, rest)| rest);
        let block = rest.split_once(end).map_or(rest, |(block, _)| block);
        block
            .lines()
            .map(|line| match line {
                "" => "\n".to_owned(),
                line => format!("      {line}\n"),
            })
            .collect::<String>()
    };
    let grace = deployment
        .lines()
        .find(|line| line.contains("terminationGracePeriodSeconds"))
        .unwrap_or_default()
        .trim();
    format!(
        "# entryway as a native sidecar (Kubernetes 1.29 and later) for every Deployment of the kustomization that lists this\n\
         # folder under components: save it there as kustomization.yaml.\n\
         apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches:\n  - target:\n      kind: Deployment\n\
         \x20   patch: |-\n      apiVersion: apps/v1\n      kind: Deployment\n      metadata:\n        name: any\n\
         \x20     spec:\n        template:\n          spec:\n            # The drain takes its time after the application has ended.\n\
         \x20           {grace}\n            initContainers:\n{}            volumes:\n{}",
        between("      initContainers:\n", "      containers:\n"),
        between("      volumes:\n", "\u{0}"),
    )
}

/// Puts a name where the template has its sample; without one, drops the line.
fn named(template: &str, sample: &str, name: &Option<String>) -> String {
    let word = if sample.contains("REGION") {
        "REGION"
    } else {
        "SYSTEM"
    };
    match (name, sample.rsplit_once(word)) {
        (Some(name), Some((before, after))) => {
            template.replacen(sample, &format!("{before}{name}{after}"), 1)
        }
        _ => template.replacen(sample, "", 1),
    }
}

/// Puts target, addresses and image into a deployment. `quoted`: the document is YAML or JSON, where an argument
/// stands in double quotes and a list in brackets.
fn deploy(template: &str, input: &SnippetInput, between: &str, quoted: bool) -> String {
    let args = match &input.config {
        Some(path) if !quoted => vec![format!("--config={path}")],
        _ => input.args(),
    };
    let written = |arg: String| match quoted {
        true => format!("\"{arg}\""),
        // A unit's own rules: % begins a specifier, white space ends a word.
        false if arg.contains(char::is_whitespace) => format!("\"{}\"", arg.replace('%', "%%")),
        false => arg.replace('%', "%%"),
    };
    let line = |args: Vec<String>| {
        let args: Vec<String> = args.into_iter().map(written).collect();
        args.join(between)
    };
    let default = SnippetInput::default();
    template
        .replacen(&line(default.args()), &line(args), 1)
        .replace(
            &format!("\"healthcheck\", \"--admin={}\"", default.admin),
            &format!("\"healthcheck\", \"--admin={}\"", input.admin),
        )
        .replace(
            "\"replace-with-your-registry/entryway:latest\"",
            &format!("\"{}\"", input.image),
        )
        .replace(
            &format!("up to {SAMPLE_DRAIN} s"),
            &format!("up to {} s", drain(input)),
        )
        .replace("localhost:8182", &input.local())
}

fn drain(input: &SnippetInput) -> u64 {
    input
        .max_drain
        .as_millis()
        .div_ceil(1000)
        .try_into()
        .unwrap_or(u64::MAX / 2)
}

// === impl SnippetInput ===

impl Default for SnippetInput {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            target: ResolvedTarget::default(),
            listen: local(8182),
            admin: local(8183),
            max_drain: Duration::from_secs(SAMPLE_DRAIN),
            image: "replace-with-your-registry/entryway:latest".to_owned(),
            config: None,
        }
    }
}

impl SnippetInput {
    /// What the application connects to.
    pub fn url(&self) -> String {
        format!("http://{}", self.local())
    }

    /// `localhost:PORT`, or the address where localhost does not lead to the listener.
    fn local(&self) -> String {
        let ip = self.listen.ip();
        let localhost =
            ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip.is_ipv6() && ip.is_loopback();
        if localhost {
            format!("localhost:{}", self.listen.port())
        } else {
            self.listen.to_string()
        }
    }

    /// The arguments of `run` that make these settings, one flag each.
    pub fn args(&self) -> Vec<String> {
        let default = Self::default();
        let mut args = self.target();
        if self.listen != default.listen {
            args.push(format!("--listen={}", self.listen));
        }
        if !self.listen.ip().is_loopback() {
            args.push("--allow-remote".to_owned());
        }
        // Always: another instance in the same network namespace must not answer for this one.
        args.push(format!("--admin={}", self.admin));
        args
    }

    fn target(&self) -> Vec<String> {
        match self.target.flags() {
            flags if flags.is_empty() => vec![SAMPLE.to_owned()],
            flags => flags,
        }
    }
}

// === impl Kind ===

impl SnippetKind {
    /// Every document.
    pub const ALL: [SnippetKind; 14] = [
        SnippetKind::Edn,
        SnippetKind::Cloudformation,
        SnippetKind::Terraform,
        SnippetKind::Aws,
        SnippetKind::K8s,
        SnippetKind::Ecs,
        SnippetKind::Compose,
        SnippetKind::Systemd,
        SnippetKind::Prometheus,
        SnippetKind::Alerts,
        SnippetKind::Grafana,
        SnippetKind::Trino,
        SnippetKind::Cloudwatch,
        SnippetKind::Kustomize,
    ];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            SnippetKind::Edn => "edn",
            SnippetKind::Cloudformation => "cloudformation",
            SnippetKind::Terraform => "terraform",
            SnippetKind::Aws => "aws",
            SnippetKind::K8s => "k8s",
            SnippetKind::Ecs => "ecs",
            SnippetKind::Compose => "compose",
            SnippetKind::Systemd => "systemd",
            SnippetKind::Prometheus => "prometheus",
            SnippetKind::Alerts => "alerts",
            SnippetKind::Grafana => "grafana",
            SnippetKind::Trino => "trino",
            SnippetKind::Cloudwatch => "cloudwatch",
            SnippetKind::Kustomize => "kustomize",
        }
    }

    /// What it is, for help texts.
    pub const fn about(self) -> &'static str {
        match self {
            SnippetKind::Edn => {
                "the application's client map (with --patch FILE: that file, its :endpoint changed)"
            }
            SnippetKind::Cloudformation => {
                "a VPC endpoint with its security group, as a CloudFormation template"
            }
            SnippetKind::Terraform => "the same for Terraform",
            SnippetKind::Aws => {
                "AWS CLI lines: security group, endpoint, permanent name, hosted zone"
            }
            SnippetKind::K8s => "a Kubernetes Deployment with entryway as a native sidecar",
            SnippetKind::Ecs => "an ECS task definition",
            SnippetKind::Compose => "a compose file",
            SnippetKind::Systemd => "a hardened systemd unit",
            SnippetKind::Prometheus => "a Prometheus scrape job",
            SnippetKind::Alerts => "Prometheus alert rules",
            SnippetKind::Grafana => "a Grafana dashboard",
            SnippetKind::Trino => "a catalog file of Trino's Datomic connector",
            SnippetKind::Cloudwatch => "a CloudWatch dashboard over what metrics.emf prints",
            SnippetKind::Kustomize => {
                "a kustomize component that adds the sidecar to any Deployment"
            }
        }
    }
}

impl fmt::Display for SnippetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SnippetKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        SnippetKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
