//! The table itself: complete, distinct, and without unknown words.

use std::collections::HashSet;

use super::*;

#[test]
fn every_rule_is_whole_and_named_once() {
    let mut names = HashSet::new();
    for rule in rules::ALL {
        assert!(names.insert(rule.id), "{} is there twice", rule.id);
        assert!(
            !rule.causes.is_empty() && !rule.steps.is_empty(),
            "{} has no causes or steps",
            rule.id
        );
        assert!(rule.verdict >= CheckVerdict::Warn, "{}", rule.id);
        for text in rule.causes.iter().chain(rule.steps).chain([&rule.symptom]) {
            assert!(
                !text.ends_with('.') && !text.is_empty(),
                "{}: {text}",
                rule.id
            );
            // What is in braces is a fact that somebody sets.
            let words = text
                .split('{')
                .skip(1)
                .filter_map(|rest| rest.split_once('}'));
            for (word, _) in words.filter(|(word, _)| !word.starts_with(':')) {
                let known =
                    "host port ip zone system region endpoint_id service other holder pid server";
                assert!(
                    known.split(' ').any(|one| one == word),
                    "{}: {{{word}}}",
                    rule.id
                );
            }
        }
    }
    assert!(
        rules::ALL
            .windows(2)
            .all(|pair| pair[0].stage <= pair[1].stage),
        "the table is in the order of the stages"
    );
}

#[test]
fn text_and_json_say_the_same() {
    let facts = Facts::default();
    let checks = vec![
        Check::ruled(&rules::TCP_REFUSED, "b 10.0.0.2:8182", "after 1 ms", &facts).of("default"),
        Check::pass(Stage::Settings, "default", "fine"),
        Check::ruled(&rules::TCP_REFUSED, "a 10.0.0.1:8182", "after 2 ms", &facts).of("default"),
    ];
    let report = Diagnosis::new(checks.clone(), &HashSet::new(), 1);
    let text = report.text(false);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("PASS  settings  default"), "{text}");
    assert!(
        lines[1].starts_with("FAIL  tcp       b 10.0.0.2:8182  "),
        "{text}"
    );
    assert_eq!(text.matches("cause 1.").count(), 1, "{text}");
    assert!(
        text.contains("as above") && lines.last().unwrap().starts_with("verdict: FAIL"),
        "{text}"
    );
    let json = report.json();
    assert_eq!(
        (&json["schema_version"], &json["verdict"]),
        (&1.into(), &"FAIL".into())
    );
    assert_eq!(json["checks"][1]["stage"], "tcp");
    assert_eq!(
        json["checks"][1]["causes"].as_array().unwrap().len(),
        rules::TCP_REFUSED.causes.len()
    );
    // Something else works: entryway goes there, and the failure is a warning.
    let report = Diagnosis::new(checks, &HashSet::from(["default".to_owned()]), 1);
    assert_eq!(report.verdict(), CheckVerdict::Warn);
}
