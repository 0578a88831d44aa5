//! The house keeps its plan: imports go down the floors of ARCHITECTURE.md, `unsafe` stays in one file, files stay
//! small, and what the tree ships (samples, guide) is parsed by the program itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may stop at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines above which a file is two rooms.
const FILE_CEILING: usize = 700;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What ARCHITECTURE.md says: each room's floor, and the sideways arrows it allows.
#[derive(Default)]
struct Plan {
    floor: BTreeMap<String, u32>,
    wings: BTreeSet<String>,
    arrows: BTreeSet<(String, String)>,
}

fn plan() -> Plan {
    let text = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let block = text
        .split("```floors\n")
        .nth(1)
        .expect("a block ```floors")
        .split("```")
        .next()
        .unwrap();
    let mut plan = Plan::default();
    for line in block.lines() {
        let (head, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match head {
            "wings" => {
                let names = rest.split('→').next().unwrap();
                plan.wings
                    .extend(names.split_whitespace().map(str::to_owned));
            }
            "pairs" => {
                for pair in rest.split(';').filter(|pair| !pair.trim().is_empty()) {
                    let (from, to) = pair.split_once('→').expect("FROM → TO, TO");
                    for to in to.split(',') {
                        plan.arrows
                            .insert((from.trim().to_owned(), to.trim().to_owned()));
                    }
                }
            }
            floor => {
                let Ok(floor) = floor.parse::<u32>() else {
                    continue;
                };
                let expanded = expand(rest);
                let words: Vec<&str> = expanded.split_whitespace().collect();
                for (place, word) in words.iter().enumerate() {
                    if *word == "→" {
                        plan.arrows
                            .insert((words[place - 1].to_owned(), words[place + 1].to_owned()));
                    } else {
                        plan.floor.insert((*word).to_owned(), floor);
                    }
                }
            }
        }
    }
    plan
}

/// `pool::{a, b}` becomes `pool::a pool::b`.
fn expand(text: &str) -> String {
    let Some((before, rest)) = text.split_once("::{") else {
        return text.to_owned();
    };
    let (inside, after) = rest.split_once('}').expect("a closing brace");
    let room = before.split_whitespace().last().unwrap();
    let before = before.trim_end_matches(room);
    let children: Vec<String> = inside
        .split(',')
        .map(|child| format!("{room}::{}", child.trim()))
        .collect();
    format!("{before} {} {}", children.join(" "), expand(after))
}

/// The room that a path of modules belongs to: `pool::order` where the plan knows it, else `pool`.
fn room_of(plan: &Plan, path: &[&str]) -> Option<String> {
    let first = *path.first()?;
    if let Some(second) = path.get(1) {
        let both = format!("{first}::{second}");
        if plan.floor.contains_key(&both) {
            return Some(both);
        }
    }
    Some(first.to_owned())
}

/// The part of a file that is not tests; tests may reach anywhere.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

/// Every path after `keyword` (`crate::` or `super::`), with `{…}` groups spread out, as segments.
fn paths_after(keyword: &str, text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    // `pub(in crate::upstream)` says who may see, not who is seen.
    let text = &text.replace("(in crate::", "(in ");
    for line in text.split(keyword).skip(1) {
        let end = line
            .find([';', '(', ')', '<', '>', ' ', '!', '='])
            .unwrap_or(line.len());
        match line.split_once('{') {
            Some((before, rest))
                if before.len() < end
                    && before
                        .chars()
                        .all(|c| c.is_alphanumeric() || "_:".contains(c)) =>
            {
                let mut depth = 1;
                let inside: String = rest
                    .chars()
                    .take_while(|c| {
                        depth += i32::from(*c == '{') - i32::from(*c == '}');
                        depth > 0
                    })
                    .collect();
                for part in split_top_level(&inside) {
                    found.push(segments(&format!("{before}{part}")));
                }
            }
            _ => found.push(segments(&line[..end])),
        }
    }
    found
}

fn split_top_level(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in text.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else if !c.is_whitespace() {
            parts.last_mut().unwrap().push(c);
        }
    }
    parts
}

fn segments(path: &str) -> Vec<String> {
    path.split("::")
        .map(|part| {
            part.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        })
        .filter(|part| !part.is_empty())
        .collect()
}

#[test]
fn imports_only_go_down() {
    let plan = plan();
    let mut wrong = Vec::new();
    for file in files_below(&root().join("src"), ".rs") {
        let relative = file
            .strip_prefix(root().join("src"))
            .unwrap()
            .with_extension("");
        let own: Vec<String> = relative
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if own == ["lib"] || own == ["build"] || own.iter().any(|part| part.ends_with("tests")) {
            continue;
        }
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let from = room_of(&plan, &own).unwrap();
        if !plan.floor.contains_key(&from) && !plan.wings.contains(&from) {
            wrong.push(format!(
                "{}: the room `{from}` stands on no floor",
                relative.display()
            ));
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for path in paths_after("crate::", without_tests(&text)) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let Some(to) = room_of(&plan, &path) else {
                continue;
            };
            if !allowed(&plan, &from, &to, own[0]) {
                wrong.push(format!("{}: `{from}` imports `{to}`", relative.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that climb or go sideways:\n{}",
        wrong.join("\n")
    );
}

fn siblings_of(file: &Path) -> Vec<String> {
    files_below(file.parent().unwrap(), ".rs")
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

fn allowed(plan: &Plan, from: &str, to: &str, own_folder: &str) -> bool {
    if from == to || plan.arrows.contains(&(from.to_owned(), to.to_owned())) {
        return true;
    }
    // One folder is one room, whatever floors its parts stand on: the parent uses its children.
    if to.starts_with(&format!("{own_folder}::")) && from == own_folder {
        return true;
    }
    match (plan.floor.get(from), plan.floor.get(to)) {
        (Some(from_floor), Some(to_floor)) if from_floor == to_floor => {
            // Parts of one folder are siblings.
            from.contains("::") && to.split("::").next() == from.split("::").next()
        }
        (Some(from), Some(to)) => from > to,
        (None, Some(to)) => plan.wings.contains(from) && *to <= 5,
        (Some(6), None) => plan.wings.contains(to),
        _ => false,
    }
}

#[test]
fn children_of_one_room_have_no_circle() {
    let mut circles = Vec::new();
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in files_below(&root().join("src"), ".rs") {
        let parent = file.parent().unwrap().to_owned();
        if parent == root().join("src") || file.to_string_lossy().ends_with("tests.rs") {
            continue;
        }
        let siblings = siblings_of(&file);
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let uses = paths_after("super::", without_tests(&text))
            .into_iter()
            .filter_map(|path| path.first().cloned())
            .filter(|first| siblings.contains(first) && *first != name);
        folders
            .entry(parent)
            .or_default()
            .entry(name.clone())
            .or_default()
            .extend(uses);
    }
    for (folder, uses) in &folders {
        for start in uses.keys() {
            let mut seen = BTreeSet::new();
            let mut open: Vec<&String> = uses[start].iter().collect();
            while let Some(next) = open.pop() {
                if next == start {
                    circles.push(format!(
                        "{}: `{start}` comes back to itself",
                        folder.display()
                    ));
                    break;
                }
                if seen.insert(next.clone()) {
                    open.extend(uses.get(next).into_iter().flatten());
                }
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn unsafe_stays_in_one_file_and_files_stay_small() {
    let mut wrong = Vec::new();
    for file in files_below(&root().join("src"), ".rs") {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        if lines > FILE_CEILING {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
        if file.file_name().unwrap() == "mod.rs" {
            wrong.push(format!(
                "{}: foo.rs beside foo/, never mod.rs",
                file.display()
            ));
        }
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let uses_unsafe = code
            .filter(|line| !line.contains("unsafe_code"))
            .any(|line| line.contains("unsafe "));
        if uses_unsafe && !file.ends_with("sys/tcp_info.rs") && !file.ends_with("sys/process.rs") {
            wrong.push(format!(
                "{}: unsafe belongs to sys/tcp_info.rs and sys/process.rs",
                file.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_plan_lists_what_exists() {
    let plan = plan();
    let rooms: BTreeSet<&str> = plan
        .floor
        .keys()
        .chain(&plan.wings)
        .map(|room| room.split("::").next().unwrap())
        .collect();
    let missing: Vec<_> = rooms
        .iter()
        .filter(|room| !root().join(format!("src/{room}.rs")).exists())
        .collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md names rooms that do not exist: {missing:?}"
    );
}
