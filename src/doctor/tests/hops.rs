use super::*;
use crate::settings::{UpstreamSettings, assign_hops};

/// One endpoint behind this `via`, whose name no resolver knows.
fn behind(via: &str) -> DoctorInput {
    let mut settings = UpstreamSettings::default();
    settings.via.url = via.to_owned();
    let mut target = explicit(&[("entry.prod.internal", 8182, None)]);
    target.hops = assign_hops(&settings, &mut target.endpoints);
    assert_eq!(target.hops.len(), 1);
    subject(target)
}

fn of_stage(report: &Diagnosis, stage: Stage) -> Vec<&Check> {
    let checks = report.checks.iter();
    checks.filter(|check| check.stage == stage).collect()
}

#[tokio::test]
async fn a_proxy_that_refuses_is_blamed_itself() {
    let report = report(&behind(&format!("socks5://{}", closed_port().await))).await;
    let check = assert_rule(
        &report,
        &rules::HOP_DOWN,
        CheckVerdict::Fail,
        "down, or out of reach",
        "by hand",
    );
    assert!(
        check.evidence.contains("connect to the hop at"),
        "{}",
        check.evidence
    );
    let tcp = of_stage(&report, Stage::Tcp);
    assert!(
        tcp.iter().all(|check| check.verdict == CheckVerdict::Skip),
        "{tcp:?}"
    );
    assert_eq!(
        of_stage(&report, Stage::Names)[0].evidence,
        "resolved by the hop"
    );
}

#[tokio::test]
async fn the_last_words_of_a_command_and_what_they_mean() {
    // One command for all targets, and one for each, as with `ssm://`.
    for places in ["%l", "%l %h %p"] {
        let command = format!(
            "sh -c 'echo \"me@bastion: Permission denied (publickey).\" >&2; exit 255' {places}"
        );
        let began = tokio::time::Instant::now();
        let report = report(&behind(&format!("supervise:{command}"))).await;
        // Well below the time that a command has to become ready.
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{places}: {:?}",
            began.elapsed()
        );
        let check = assert_rule(
            &report,
            &rules::HOP_DOWN,
            CheckVerdict::Fail,
            "accepts none of the keys",
            "entryway status",
        );
        assert!(
            check.evidence.contains("Permission denied (publickey)"),
            "{}",
            check.evidence
        );
    }
}

#[tokio::test]
async fn what_is_behind_a_hop_that_works_is_examined_through_it() {
    // `cat` says back what it is asked, which is no answer of Datomic.
    let report = report(&behind("exec:cat")).await;
    assert_eq!(of_stage(&report, Stage::Hop)[0].verdict, CheckVerdict::Pass);
    let check = assert_rule(
        &report,
        &rules::HOP_ANSWER,
        CheckVerdict::Fail,
        "another host or port",
        "curl",
    );
    assert_eq!(check.stage, Stage::Http);
}

#[tokio::test]
async fn a_hop_that_a_running_instance_finds_down() {
    let mut subject = behind("exec:cat");
    subject.instance = Some(RunningInstance {
        hops: vec![InstanceHop {
            upstream: "default".to_owned(),
            via: "ssh://bastion".to_owned(),
            state: "down".to_owned(),
            last_error: Some("the command ended before it was ready: exit 255".to_owned()),
            last_output: vec!["Host key verification failed.".to_owned()],
        }],
        ..RunningInstance::default()
    });
    let report = report(&subject).await;
    let check = assert_rule(
        &report,
        &rules::HOP_DOWN,
        CheckVerdict::Fail,
        "the host key is not known",
        "entryway status",
    );
    assert!(
        check.subject.contains("running instance"),
        "{}",
        check.subject
    );
    assert!(
        check.evidence.contains("Host key verification failed."),
        "{}",
        check.evidence
    );
}
