//! What was found: checks in the order of the stages, their verdict, as text and as JSON. Pure.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::types::{CheckVerdict, Facts, Rule, Stage};

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub stage: Stage,
    /// Of whom: an upstream, an endpoint and address, a listen address, a server.
    pub subject: String,
    /// How it is.
    pub verdict: CheckVerdict,
    /// What was seen.
    pub evidence: String,
    /// The rule that speaks, where one does.
    pub rule: Option<&'static str>,
    /// Why it may be so, the likeliest first.
    pub causes: Vec<String>,
    /// What to check or do.
    pub steps: Vec<String>,
    /// The upstream it belongs to; `None`: to no one of them.
    pub target: Option<String>,
}

/// A whole diagnosis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// In the order of the stages.
    pub checks: Vec<Check>,
    /// The systems (`:s3-auth-path`) that were seen; not printed, but `--redact` must know them.
    pub buckets: Vec<String>,
}

// === impl Check ===

impl Check {
    fn new(
        stage: Stage,
        verdict: CheckVerdict,
        subject: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Self {
        Self {
            stage,
            subject: subject.into(),
            verdict,
            evidence: evidence.into(),
            rule: None,
            causes: Vec::new(),
            steps: Vec::new(),
            target: None,
        }
    }

    /// All is well.
    pub fn pass(stage: Stage, subject: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(stage, CheckVerdict::Pass, subject, evidence)
    }

    /// There was nothing to look at, and why.
    pub fn skip(stage: Stage, subject: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(stage, CheckVerdict::Skip, subject, evidence)
    }

    /// A rule applies. The symptom comes before the evidence.
    pub fn ruled(
        rule: &'static Rule,
        subject: impl Into<String>,
        evidence: &str,
        facts: &Facts,
    ) -> Self {
        let symptom = facts.fill(rule.symptom);
        let evidence = match evidence {
            "" => symptom,
            seen => format!("{symptom} ({seen})"),
        };
        let fill = |texts: &[&str]| texts.iter().map(|text| facts.fill(text)).collect();
        Self {
            rule: Some(rule.id),
            causes: fill(rule.causes),
            steps: fill(rule.steps),
            ..Self::new(rule.stage, rule.verdict, subject, evidence)
        }
    }

    /// Belongs to an upstream.
    #[must_use]
    pub fn of(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// A cause that the evidence puts before those of the rule.
    #[must_use]
    pub fn likeliest(mut self, cause: impl Into<String>) -> Self {
        self.causes.insert(0, cause.into());
        self
    }
}

// === impl Report ===

impl Diagnosis {
    /// Puts the checks in order and lowers what entryway covers: a failure on one way of an upstream that has another
    /// is a warning. `working`: the upstreams with an address that works; `all`: how many upstreams there are.
    pub fn new(mut checks: Vec<Check>, working: &HashSet<String>, all: usize) -> Self {
        for check in &mut checks {
            let covered = match &check.target {
                Some(target) => working.contains(target),
                None => all > 0 && working.len() == all,
            };
            if check.verdict == CheckVerdict::Fail && check.stage.is_covered() && covered {
                check.verdict = CheckVerdict::Warn;
            }
        }
        checks.sort_by_key(|check| check.stage);
        Self {
            checks,
            buckets: Vec::new(),
        }
    }

    /// The worst of all checks.
    pub fn verdict(&self) -> CheckVerdict {
        let worst = self.checks.iter().map(|check| check.verdict).max();
        worst.unwrap_or(CheckVerdict::Pass).max(CheckVerdict::Pass)
    }

    /// Whether the settings themselves are wrong.
    pub fn has_wrong_settings(&self) -> bool {
        self.checks
            .iter()
            .any(|check| check.stage == Stage::Settings && check.verdict == CheckVerdict::Fail)
    }

    /// The checks that a rule decided.
    pub fn by_rule<'r>(&'r self, rule: &'r Rule) -> impl Iterator<Item = &'r Check> {
        self.checks
            .iter()
            .filter(move |check| check.rule == Some(rule.id))
    }

    /// For programs.
    pub fn json(&self) -> Json {
        let check = |check: &Check| {
            let mut document = json!({
                "stage": check.stage.as_str(),
                "subject": check.subject,
                "verdict": check.verdict.as_str(),
                "evidence": check.evidence,
                "causes": check.causes,
                "steps": check.steps,
            });
            if let Some(rule) = check.rule {
                document["rule"] = json!(rule);
            }
            document
        };
        json!({
            "schema_version": 1,
            "verdict": self.verdict().as_str(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }

    /// For people. Causes that were printed under an earlier line are not printed again.
    pub fn text(&self, colour: bool) -> String {
        let width = self
            .checks
            .iter()
            .map(|check| check.subject.chars().count())
            .max()
            .unwrap_or(0)
            .min(48);
        let mut text = String::new();
        let mut printed: HashSet<(Option<&str>, &[String])> = HashSet::new();
        for check in &self.checks {
            let verdict = painted(check.verdict, colour);
            let Check {
                stage,
                subject,
                evidence,
                ..
            } = check;
            let stage = stage.as_str();
            let _ = writeln!(text, "{verdict}  {stage:8}  {subject:width$}  {evidence}");
            if check.causes.is_empty() && check.steps.is_empty() {
                continue;
            }
            // The steps of one rule differ in names only.
            if !printed.insert((check.rule, &check.causes)) {
                let _ = writeln!(text, "      causes and steps as above, for this one");
                continue;
            }
            list(&mut text, "cause", &check.causes);
            list(&mut text, "step", &check.steps);
        }
        let _ = writeln!(
            text,
            "verdict: {}  {}",
            painted(self.verdict(), colour),
            self.conclusion()
        );
        text
    }

    /// The verdict in a sentence.
    pub fn conclusion(&self) -> String {
        let count = |verdict| {
            self.checks
                .iter()
                .filter(|check| check.verdict == verdict)
                .count()
        };
        let (fails, warns) = (count(CheckVerdict::Fail), count(CheckVerdict::Warn));
        let checks = |number: usize| {
            if number == 1 {
                "1 check".to_owned()
            } else {
                format!("{number} checks")
            }
        };
        match self.verdict() {
            CheckVerdict::Fail => {
                let first = self
                    .checks
                    .iter()
                    .find(|check| check.verdict == CheckVerdict::Fail);
                let at = first.map(|check| check.stage.as_str()).unwrap_or_default();
                format!(
                    "a connection made now would not reach this Datomic system; {} failed, the first at {at}",
                    checks(fails)
                )
            }
            CheckVerdict::Warn => {
                format!("it works, but {} will hurt sooner or later", checks(warns))
            }
            CheckVerdict::Pass | CheckVerdict::Skip => "all is well".to_owned(),
        }
    }
}

fn list(text: &mut String, what: &str, items: &[String]) {
    for (place, item) in items.iter().enumerate() {
        let head = if place == 0 { what } else { "" };
        let _ = writeln!(text, "      {head:5} {}. {item}", place + 1);
    }
}

fn painted(verdict: CheckVerdict, colour: bool) -> String {
    let code = match verdict {
        CheckVerdict::Pass => 32,
        CheckVerdict::Warn => 33,
        CheckVerdict::Fail => 31,
        CheckVerdict::Skip => 2,
    };
    match colour {
        true => format!("\u{1b}[{code}m{verdict}\u{1b}[0m"),
        false => verdict.to_string(),
    }
}
