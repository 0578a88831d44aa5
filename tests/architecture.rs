//! Checks of the source tree itself: imports follow the layers of `src/ARCHITECTURE.md`, every file is compiled,
//! `unsafe` stays in its files, and a file that has grown long is asked whether it is still one subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may stop at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Above this many lines the question is: is this one subject? If it is, and splitting it would only make a file that
/// continues another, add it to [`LONG_BUT_ONE_SUBJECT`] with the reason.
const LONG_FILE: usize = 700;

/// Files that stay long, and why.
const LONG_BUT_ONE_SUBJECT: &[(&str, &str)] = &[];

/// The only files with `unsafe`: each wraps system calls that no library in the tree offers, on macOS too.
const UNSAFE_FILES: &[&str] = &[
    "src/sys/tcp_info.rs",
    "src/sys/process.rs",
    "src/sys/local_address.rs",
];

/// Names of types that stand more than once, and why. Every other name says which part of the crate it belongs to.
const SHARED_TYPE_NAMES: &[(&str, &str)] = &[
    ("Error", "the error of a module: `module::Error`"),
    (
        "Shared",
        "private: what the clones of a module's handle have in common",
    ),
    (
        "Inner",
        "private: what is behind the `Arc` of a module's handle",
    ),
    (
        "Reads",
        "private: a serde visitor inside the function that uses it",
    ),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(files_below(&path, ending));
            }
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The block of ARCHITECTURE.md: the rank of each module (higher may import lower), the optional modules, and the
/// exceptions that are allowed.
#[derive(Default)]
struct Layers {
    rank: BTreeMap<String, usize>,
    optional: BTreeSet<String>,
    allowed: BTreeSet<(String, String)>,
}

fn layers() -> Layers {
    let text = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let block = text.split("```layers\n").nth(1).expect("a block ```layers");
    let block = block.split("```").next().unwrap();
    let mut layers = Layers::default();
    // From the bottom up, so that the rank grows with the layer.
    for (rank, line) in block.lines().rev().enumerate() {
        let (label, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = expand(rest.trim());
        match label {
            "allow" => {
                for pair in rest.split(';').filter(|pair| !pair.trim().is_empty()) {
                    let (from, to) = pair.split_once('→').expect("FROM → TO, TO");
                    for to in to.split(',') {
                        let pair = (from.trim().to_owned(), to.trim().to_owned());
                        layers.allowed.insert(pair);
                    }
                }
            }
            "optional" => layers
                .optional
                .extend(rest.split_whitespace().map(str::to_owned)),
            _ => {
                let names = rest.split_whitespace();
                layers
                    .rank
                    .extend(names.map(|name| (name.to_owned(), rank)));
            }
        }
    }
    layers
}

/// `upstream::{a, b}` becomes `upstream::a upstream::b`.
fn expand(text: &str) -> String {
    let Some((before, rest)) = text.split_once("::{") else {
        return text.to_owned();
    };
    let (inside, after) = rest.split_once('}').expect("a closing brace");
    let module = before.split_whitespace().last().unwrap();
    let before = before.trim_end_matches(module);
    let children: Vec<String> = inside
        .split(',')
        .map(|child| format!("{module}::{}", child.trim()))
        .collect();
    format!("{before} {} {}", children.join(" "), expand(after))
}

/// The listed module that a path belongs to: `upstream::order` where the block lists it, else `upstream`.
fn module_of(layers: &Layers, path: &[&str]) -> Option<String> {
    let first = *path.first()?;
    if let Some(second) = path.get(1) {
        let both = format!("{first}::{second}");
        if layers.rank.contains_key(&both) {
            return Some(both);
        }
    }
    Some(first.to_owned())
}

/// The text without items under `#[cfg(test)]`, wherever in the file they stand. Relies on rustfmt: an item ends with
/// a line that has a closing brace at the indentation of its attribute, or with `;` on its first line.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        for line in lines.by_ref() {
            let one_line = line.trim_end().ends_with(';') && !line[indent.len()..].starts_with(' ');
            if line == end || line == format!("{end}{end}") || one_line {
                break;
            }
        }
    }
    kept
}

/// Every path after `keyword` (`crate::` or `super::`), with `{…}` groups spread out, as segments.
fn paths_after(keyword: &str, text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    // `pub(in crate::upstream)` says who may see an item, not what is imported.
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
fn imports_follow_the_layers() {
    let layers = layers();
    let mut wrong = Vec::new();
    for file in files_below(&root().join("src"), ".rs") {
        let path = file.strip_prefix(root().join("src")).unwrap();
        let path = path.with_extension("");
        let own: Vec<String> = path
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if own == ["lib"] || own == ["build"] || own.iter().any(|part| part.ends_with("tests")) {
            continue;
        }
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let from = module_of(&layers, &own).unwrap();
        if !layers.rank.contains_key(&from) && !layers.optional.contains(&from) {
            wrong.push(format!(
                "{}: the block in ARCHITECTURE.md does not list `{from}`",
                path.display()
            ));
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for import in paths_after("crate::", &without_tests(&text)) {
            let import: Vec<&str> = import.iter().map(String::as_str).collect();
            let Some(to) = module_of(&layers, &import) else {
                continue;
            };
            if !may_import(&layers, &from, &to, own[0]) {
                wrong.push(format!("{}: `{from}` imports `{to}`", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that go up or sideways:\n{}",
        wrong.join("\n")
    );
}

fn may_import(layers: &Layers, from: &str, to: &str, own_folder: &str) -> bool {
    let pair = (from.to_owned(), to.to_owned());
    if from == to || layers.allowed.contains(&pair) {
        return true;
    }
    // A parent uses its children, whatever layer they are on.
    if to.starts_with(&format!("{own_folder}::")) && from == own_folder {
        return true;
    }
    let app = layers.rank["app"];
    match (layers.rank.get(from), layers.rank.get(to)) {
        (Some(from_rank), Some(to_rank)) if from_rank == to_rank => {
            // Parts of one folder are siblings.
            from.contains("::") && to.split("::").next() == from.split("::").next()
        }
        (Some(from), Some(to)) => from > to,
        (None, Some(to)) => layers.optional.contains(from) && *to < app,
        (Some(from), None) => *from >= app && layers.optional.contains(to),
        _ => false,
    }
}

#[test]
fn siblings_do_not_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let stem = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    for file in files_below(&root().join("src"), ".rs") {
        let parent = file.parent().unwrap().to_owned();
        if parent == root().join("src") || file.to_string_lossy().ends_with("tests.rs") {
            continue;
        }
        let siblings: Vec<String> = files_below(&parent, ".rs")
            .iter()
            .map(|path| stem(path))
            .collect();
        let name = stem(&file);
        let text = fs::read_to_string(&file).unwrap();
        let uses = paths_after("super::", &without_tests(&text))
            .into_iter()
            .filter_map(|path| path.first().cloned())
            .filter(|first| siblings.contains(first) && *first != name);
        let folder = folders.entry(parent).or_default();
        folder.entry(name.clone()).or_default().extend(uses);
    }
    for (folder, uses) in &folders {
        for start in uses.keys() {
            let mut seen = BTreeSet::new();
            let mut open: Vec<&String> = uses[start].iter().collect();
            while let Some(next) = open.pop() {
                if next == start {
                    circles.push(format!("{}: from `{start}` back to it", relative(folder)));
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
fn unsafe_stays_in_its_files_and_long_files_are_one_subject() {
    let mut wrong = Vec::new();
    let mut with_unsafe = BTreeSet::new();
    for file in files_below(&root().join("src"), ".rs") {
        let name = relative(&file);
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        let agreed = LONG_BUT_ONE_SUBJECT.iter().any(|(path, _)| *path == name);
        if lines > LONG_FILE && !agreed {
            wrong.push(format!(
                "{name}: {lines} lines. Is this one subject? Split it by subject, or say in this test why it stays"
            ));
        }
        if file.file_name().unwrap() == "mod.rs" {
            wrong.push(format!("{name}: use foo.rs beside foo/, not mod.rs"));
        }
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//") && !line.contains("unsafe_code"));
        if code.into_iter().any(|line| line.contains("unsafe ")) {
            with_unsafe.insert(name);
        }
    }
    for name in with_unsafe {
        if !UNSAFE_FILES.contains(&name.as_str()) {
            wrong.push(format!("{name}: unsafe belongs in {UNSAFE_FILES:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A wall clock that jumps must neither keep a fault nor end one, nor stand in a latency: what measures and what disturbs
/// reads the monotonic clock only.
#[test]
fn faults_drills_and_load_do_not_read_the_wall_clock() {
    // The time of day at which a result was written.
    let stamps = ["src/load/hlog.rs", "src/load/output.rs"];
    let timed = ["drill", "faults", "interference", "load", "mock", "clock"];
    let left_out = |name: &str| stamps.contains(&name) || name.ends_with("/tests.rs");
    let mut read = 0;
    for file in files_below(&root().join("src"), ".rs") {
        let name = relative(&file);
        let parts: Vec<&str> = name.split(['/', '.']).collect();
        if !timed.iter().any(|one| parts.contains(one)) || left_out(&name) {
            continue;
        }
        read += 1;
        let text = without_tests(&fs::read_to_string(&file).unwrap());
        for clock in ["SystemTime", "Timestamp", "Zoned"] {
            assert!(
                !text.contains(clock),
                "{name} reads the wall clock: {clock}"
            );
        }
    }
    assert!(read > 40, "only {read} files");
}

#[test]
fn a_type_name_stands_once_in_the_crate() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files_below(&root().join("src"), ".rs") {
        let name = relative(&path);
        if name.contains("/tests") {
            continue;
        }
        for line in without_tests(&fs::read_to_string(&path).unwrap()).lines() {
            let Some(name_of_type) = declared_type(line) else {
                continue;
            };
            places.entry(name_of_type).or_default().push(name.clone());
        }
    }
    assert!(
        places.len() > 300,
        "declarations are found: {}",
        places.len()
    );
    let allowed = |name: &str| SHARED_TYPE_NAMES.iter().any(|(shared, _)| *shared == name);
    let twice: Vec<_> = places
        .iter()
        .filter(|(name, places)| places.len() > 1 && !allowed(name))
        .collect();
    assert!(
        twice.is_empty(),
        "give each a name that says which: {twice:#?}"
    );
    for (name, _) in SHARED_TYPE_NAMES {
        assert!(
            places[*name].len() > 1,
            "`{name}` stands once: take it out of the list"
        );
    }
}

/// The name that a line declares. Associated types of a trait belong to their trait.
fn declared_type(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().peekable();
    while words.peek().is_some_and(|word| word.starts_with("pub")) {
        let visibility = words.next()?;
        if visibility.contains('(') && !visibility.ends_with(')') {
            words.next();
        }
    }
    let keyword = words.next()?;
    let is_alias = keyword == "type";
    if !is_alias && !["struct", "enum", "union", "trait"].contains(&keyword) {
        return None;
    }
    // An alias at the start of a line is a type of the crate; a deeper one is a trait's.
    if is_alias && line.starts_with(' ') {
        return None;
    }
    let name: String = words
        .next()?
        .chars()
        .take_while(|c| c.is_alphanumeric())
        .collect();
    name.starts_with(char::is_uppercase).then_some(name)
}

#[test]
fn the_layers_list_what_exists() {
    let layers = layers();
    let names: BTreeSet<&str> = layers
        .rank
        .keys()
        .chain(&layers.optional)
        .map(|name| name.split("::").next().unwrap())
        .collect();
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !root().join(format!("src/{name}.rs")).exists())
        .collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md lists modules that do not exist: {missing:?}"
    );
}

/// The files that `file` names with `mod NAME;` or `#[path]`, and theirs.
fn reach(file: &Path, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(file.to_owned()) {
        return;
    }
    let text = fs::read_to_string(file).unwrap();
    let folder = file.parent().unwrap();
    let stem = file.file_stem().unwrap().to_string_lossy();
    let is_root = ["lib", "main"].contains(&&*stem)
        || ["tests", "benches"]
            .iter()
            .any(|name| folder == root().join(name));
    let children = if is_root {
        folder.to_owned()
    } else {
        folder.join(&*stem)
    };
    let mut path = None;
    for line in text.lines().map(str::trim) {
        if let Some(given) = line.strip_prefix("#[path = \"") {
            path = given.split('"').next().map(|given| folder.join(given));
            continue;
        }
        let item = line
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ");
        let Some(name) = item
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        let beside = folder.join(&*stem).join(format!("{name}.rs"));
        // A path may lead out of the folder and into another.
        let child = path
            .take()
            .map(|path| path.canonicalize().unwrap_or(path))
            .unwrap_or_else(|| children.join(format!("{name}.rs")));
        // A test binary's modules may stand beside it or in a folder of its name.
        for child in [child, beside] {
            if child.exists() {
                reach(&child, reached);
            }
        }
    }
}

#[test]
fn every_file_is_compiled() {
    let mut reached = BTreeSet::new();
    for name in ["src/lib.rs", "src/main.rs", "src/build.rs"] {
        reach(&root().join(name), &mut reached);
    }
    for folder in ["tests", "benches"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|ending| ending == "rs") {
                reach(&path, &mut reached);
            } else if path.join("main.rs").exists() {
                reach(&path.join("main.rs"), &mut reached);
            }
        }
    }
    // Programs for tests that are crates of their own.
    for manifest in files_below(&root().join("tests"), "Cargo.toml") {
        let main = manifest.with_file_name("src").join("main.rs");
        if main.exists() {
            reach(&main, &mut reached);
        }
    }
    let fuzz = root().join("tests/fuzz");
    let fuzz_targets = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap_or_default();
    let forgotten: Vec<String> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|folder| files_below(&root().join(folder), ".rs"))
        .filter(|file| {
            let in_fuzz = file.strip_prefix(&fuzz);
            let is_target =
                in_fuzz.is_ok_and(|inside| fuzz_targets.contains(&*inside.to_string_lossy()));
            !is_target && !reached.contains(file)
        })
        .map(|file| relative(&file))
        .collect();
    assert!(
        forgotten.is_empty(),
        "no `mod` reaches these files, so they are never compiled:\n{}",
        forgotten.join("\n")
    );
}

/// The targets of the links and pictures of a page that are files.
fn linked_files(text: &str) -> Vec<&str> {
    let between = |part: &'static str, end: char| {
        text.split(part)
            .skip(1)
            .filter_map(move |rest| rest.split(end).next())
    };
    between("](", ')')
        .chain(between("src=\"", '"'))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(' '))
        .collect()
}

#[test]
fn links_lead_to_files_and_every_picture_is_shown() {
    let mut pages = files_below(&root().join("src"), ".md");
    pages.extend(
        [
            "README.md",
            "CHANGELOG.md",
            "tests/README.md",
            "benches/README.md",
        ]
        .map(|page| root().join(page)),
    );
    let mut shown = BTreeSet::new();
    let mut count = 0;
    for page in &pages {
        for target in linked_files(&fs::read_to_string(page).unwrap()) {
            let file = page.parent().unwrap().join(target);
            assert!(file.exists(), "{}: {target}", relative(page));
            shown.insert(file.canonicalize().unwrap());
            count += 1;
        }
    }
    assert!(count > 20, "links are found: {count}");
    let mut missing = files_below(&root().join("src/guide/pictures"), ".png");
    missing.retain(|picture| !shown.contains(&picture.canonicalize().unwrap()));
    assert!(missing.is_empty(), "shown nowhere: {missing:?}");
}

#[test]
fn items_of_tests_are_skipped_and_the_rest_of_the_file_is_read() {
    let text = "use crate::a;\n#[cfg(test)]\nuse crate::b;\n#[cfg(test)]\nmod tests {\n    use crate::c;\n}\nuse crate::d;\n";
    assert_eq!(without_tests(text), "use crate::a;\nuse crate::d;\n");
}
