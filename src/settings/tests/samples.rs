use std::time::Duration;

use super::*;
use crate::settings::node::{KeyPath, Node, PathStep};
use crate::settings::source_file::SourceFile;
use crate::settings::{deserialize, effective, file};

fn tree(text: String) -> Node {
    let source = SourceFile {
        name: "reference.toml".to_owned(),
        text: text.into(),
    };
    let (tree, problems) = file::parse(&source);
    assert_eq!(problems, [], "{}", source.text);
    tree
}

#[test]
fn the_reference_holds_the_defaults() {
    let outcome = deserialize::read::<Settings>(&mut tree(effective::uncomment(false)));
    assert_eq!(outcome.errors, []);
    assert_eq!(outcome.value.unwrap(), Settings::default());
}

#[test]
fn the_reference_holds_every_key() {
    let tree = tree(effective::uncomment(true));
    let known = deserialize::known_keys::<Settings>(&tree).unwrap();
    for (table, fields) in &known {
        let steps = table.split('.').filter(|step| !step.is_empty());
        let path = steps.fold(KeyPath::default(), |path, step| {
            let below = path.key(step);
            match tree.at(&below).map(|node| &node.value) {
                Some(node::NodeValue::List(_)) => {
                    KeyPath([below.0, vec![PathStep::Index(0)]].concat())
                }
                _ => below,
            }
        });
        let entries = tree.at(&path).and_then(Node::entries).unwrap();
        let mut written: Vec<&str> = entries.keys().map(String::as_str).collect();
        let mut fields = fields.to_vec();
        written.sort_unstable();
        fields.sort_unstable();
        assert_eq!(written, fields, "[{table}] in config/reference.toml");
    }
    assert!(known.len() >= 13, "{known:?}");
}

/// It describes the program with all its optional parts.
#[cfg(all(feature = "gateway", feature = "faults"))]
#[test]
fn the_reference_as_it_stands_only_lacks_a_target() {
    let file = OneFile::new(REFERENCE);
    let report = file.load(&[], &[]).unwrap_err();
    assert!(report.plain().contains("no target"), "{report}");
    assert_eq!(report.problems.len(), 1);
    assert_eq!(
        file.load(&["-e", "a.example:1"], &[]).unwrap().warnings,
        [] as [&str; 0]
    );
}

#[test]
fn every_sample_is_right_and_odd_in_nothing() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml")
            || path.ends_with("reference.toml")
        {
            continue;
        }
        let loaded = load_with(&["--config", path.to_str().unwrap()], &[]).unwrap();
        assert_eq!(loaded.warnings, [] as [&str; 0], "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 6, "{seen} samples");
}

#[test]
fn the_fast_sample_has_the_documented_values() {
    let loaded = load_with(
        &[
            "--config",
            concat!(env!("CARGO_MANIFEST_DIR"), "/config/fast.toml"),
        ],
        &[],
    )
    .unwrap();
    let upstream = &loaded.settings.upstreams[0];
    let ms = Duration::from_millis;
    assert_eq!(
        (
            upstream.health.interval,
            upstream.health.timeout,
            upstream.health.fall
        ),
        (ms(1000), ms(250), 2)
    );
    assert_eq!(
        (upstream.tcp.user_timeout, upstream.tcp.keepalive),
        (ms(1000), ms(1000))
    );
    assert_eq!(
        (
            upstream.tcp.keepalive_interval,
            upstream.tcp.keepalive_probes
        ),
        (ms(1000), 3)
    );
}

#[test]
fn every_flag_sets_a_key_that_exists() {
    let tree = tree(effective::uncomment(true));
    for flag in flags::FLAGS {
        let exists = flag.path.split('.').try_fold(&tree, |node, key| {
            let node = node.items().first().unwrap_or(node);
            Some(&node.entries()?.get(key)?.node)
        });
        assert!(exists.is_some(), "--{}: {}", flag.long, flag.path);
    }
}
