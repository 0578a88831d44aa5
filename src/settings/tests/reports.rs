use super::*;

/// One case: what is given, and the report it must bring, to the letter.
struct Case<'a> {
    name: &'a str,
    args: Vec<&'a str>,
    env: Vec<(&'a str, &'a str)>,
    /// `None`: no file is given.
    toml: Option<&'a str>,
    report: &'a str,
}

/// The cases stand in `reports.txt`: `=== NAME`, lines `args: …` and `env: NAME=VALUE`, `---` and a file where there is
/// one, `>>>` and the report.
fn cases() -> Vec<Case<'static>> {
    let text = include_str!("reports.txt");
    let blocks = text.split("=== ").skip(1);
    let cases = blocks.map(|block| {
        let (given, report) = block.split_once(">>>\n").unwrap();
        let (head, toml) = match given.split_once("---\n") {
            Some((head, toml)) => (head, Some(toml)),
            None => (given, None),
        };
        let mut lines = head.lines();
        let name = lines.next().unwrap();
        let (mut args, mut env) = (Vec::new(), Vec::new());
        for line in lines {
            match line.split_once(": ").unwrap() {
                ("args", words) => args.extend(words.split(' ')),
                ("env", pair) => env.push(pair.split_once('=').unwrap()),
                other => panic!("{other:?}"),
            }
        }
        Case {
            name,
            args,
            env,
            toml,
            report: report.trim_end(),
        }
    });
    cases.collect()
}

/// Writes the reports as they are now to `reports.txt`, to be read in the diff.
fn bless(wrong: &[String]) {
    let mut text = include_str!("reports.txt").to_owned();
    for report in wrong {
        let (head, body) = report.split_once('\n').unwrap();
        let start = text.find(&format!("{head}\n")).unwrap();
        let from = start + text[start..].find(">>>\n").unwrap() + 4;
        let to = text[from..]
            .find("\n\n=== ")
            .map_or(text.len(), |end| from + end + 1);
        text.replace_range(from..to, &format!("{body}\n"));
    }
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/settings/tests/reports.txt"
    );
    std::fs::write(file, text).unwrap();
}

#[test]
fn every_mistake_has_its_report_to_the_letter() {
    let cases = cases();
    assert!(cases.len() > 30, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let report = match case.toml {
            Some(toml) => OneFile::new(toml).report(&case.args, &case.env),
            None => load_with(&case.args, &case.env).unwrap_err().plain(),
        };
        // Lines that only separate end in a space, which editors take away.
        let report = report
            .lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n");
        if report != case.report {
            wrong.push(format!("=== {}\n{report}", case.name));
        }
    }
    if std::env::var_os("ENTRYWAY_BLESS").is_some() {
        bless(&wrong);
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_that_are_not_settings_files() {
    let says =
        |bytes: &[u8], expected: &str| assert_eq!(OneFile::new(bytes).report(&[], &[]), expected);
    says(
        b"",
        "error: entryway.toml is empty\n |\n = help: start from one of the samples in config/, or omit --config",
    );
    says(
        b"\n \t\n",
        "error: entryway.toml is empty\n |\n = help: start from one of the samples in config/, or omit --config",
    );
    says(
        b"\x7fELF\0\0",
        "error: entryway.toml is a binary file, not TOML",
    );
    says(
        b"# fine\nname = \"\xff\"\n",
        "error: entryway.toml:2 is not UTF-8 text\n |\n = help: save the file as UTF-8, the only encoding of TOML",
    );
    says(
        &vec![b'#'; 1024 * 1024 + 1],
        "error: entryway.toml is larger than 1 MiB; that is not a settings file",
    );
    let report = |path: &str| load_with(&["-c", path], &[]).unwrap_err().plain();
    assert_eq!(
        report("/nowhere/entryway.toml"),
        "error: cannot read /nowhere/entryway.toml: no such file or directory\n |\n \
         = help: give the path of an existing file with --config; there is no default location"
    );
    assert_eq!(
        report("/"),
        "error: cannot read /: is a directory\n |\n = help: give the path of a file, not of a directory"
    );
}

#[test]
fn text_from_outside_cannot_write_to_the_terminal() {
    let report = OneFile::new("\"\\u001b[31m\" = 1\n[upstream]\nendpoint = \"\\u001b[2Jx:1\"\n")
        .load(&[], &[])
        .unwrap_err();
    assert!(!report.plain().contains('\u{1b}'), "{}", report.plain());
    let report = load_with(
        &[],
        &[
            ("ENTRYWAY_ENDPOINT", "\u{1b}[2Jx:1"),
            ("ENTRYWAY_\u{1b}[2J", "x"),
        ],
    )
    .unwrap_err();
    assert!(!report.plain().contains('\u{1b}'), "{}", report.plain());
}

#[test]
fn only_a_terminal_gets_colours() {
    let report = load_with(&[], &[]).unwrap_err();
    assert!(report.styled().contains('\u{1b}'));
    assert!(!report.to_string().contains('\u{1b}'));
}

#[test]
fn a_fifo_or_device_is_refused_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("entryway.toml");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    for path in [fifo.to_str().unwrap(), "/dev/zero"] {
        let report = load_with(&["-c", path], &[]).unwrap_err().plain();
        assert!(report.contains("is not a regular file"), "{report}");
    }
}

#[test]
fn fifty_errors_are_shown_and_the_rest_counted_in_linear_time() {
    let began = tokio::time::Instant::now();
    let many: String = (0..20_000).map(|n| format!("key_{n} = 1\n")).collect();
    let report = OneFile::new(&many).load(&[], &[]).unwrap_err();
    assert_eq!(
        (report.problems.len(), report.omitted),
        (50, 19_951),
        "with the missing target"
    );
    assert!(
        report
            .plain()
            .ends_with("50 errors, and 19951 more that are not shown")
    );
    let endpoints: String = (0..5_000)
        .map(|n| format!("[[upstream.endpoint]]\naddress = {n}\n"))
        .collect();
    let report = OneFile::new(format!("[[upstream]]\n{endpoints}"))
        .load(&[], &[])
        .unwrap_err();
    assert_eq!(report.problems.len(), 50);
    // With time that grows with the square this takes minutes in a debug build.
    assert!(
        began.elapsed() < std::time::Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn other_languages_are_named() {
    for (text, language) in [
        ("{\n  \"upstream\": {\"endpoint\": \"a:1\"}\n}\n", "is JSON"),
        ("[\n  {\"endpoint\": \"a:1\"}\n]\n", "is JSON"),
        ("# sample\nupstream:\n  endpoint: a:1\n", "is YAML"),
        ("---\nupstream:\n  - endpoint: a:1\n", "is YAML"),
    ] {
        let report = OneFile::new(text).report(&[], &[]);
        assert!(
            report.contains(language) && report.contains("TOML"),
            "{report}"
        );
        assert!(report.lines().count() < 6, "{report}");
    }
    let prose = "Some words.\nAnd more of them.\n".repeat(100);
    let report = OneFile::new(prose).load(&[], &[]).unwrap_err();
    assert!(report.problems.len() <= 3, "{report}");
}

#[test]
fn a_misspelt_variable_is_named_beside_the_missing_target() {
    let report = load_with(&[], &[("ENTRYWAY_ENDPONT", "a:1")]).unwrap_err();
    assert!(
        report.plain().contains("did you mean ENTRYWAY_ENDPOINT?"),
        "{report}"
    );
}

#[test]
fn quotes_around_a_variable_are_named() {
    for value in ["'10.0.0.1:8182'", "\"10.0.0.1:8182\"", "\"10.0.0.1:8182"] {
        let report = load_with(&[], &[("ENTRYWAY_ENDPOINT", value)])
            .unwrap_err()
            .plain();
        assert!(report.contains("in quotes"), "{report}");
        assert!(
            report.contains("ENTRYWAY_ENDPOINT=10.0.0.1:8182"),
            "{report}"
        );
    }
}

#[test]
fn variables_of_kubernetes_service_links_are_not_warned_about() {
    let links = [
        "ENTRYWAY_SERVICE_HOST",
        "ENTRYWAY_SERVICE_PORT",
        "ENTRYWAY_SERVICE_PORT_DATOMIC",
        "ENTRYWAY_PORT",
        "ENTRYWAY_PORT_8182_TCP",
        "ENTRYWAY_PORT_8182_TCP_PROTO",
        "ENTRYWAY_PORT_8182_TCP_PORT",
        "ENTRYWAY_PORT_8182_TCP_ADDR",
        "ENTRYWAY_STAGING_SERVICE_HOST",
        "ENTRYWAY_STAGING_PORT",
        "ENTRYWAY_STAGING_PORT_53_UDP_ADDR",
    ];
    let env = links.map(|name| (name, "tcp://10.0.0.1:8182"));
    let loaded = load_with(&["-e", "a.example:8182"], &env).unwrap();
    assert_eq!(loaded.warnings, [] as [&str; 0]);
    let typo = load_with(&["-e", "a.example:8182"], &[("ENTRYWAY_PORTS", "1")]).unwrap();
    assert_eq!(typo.warnings.len(), 1);
}

#[test]
fn a_name_is_neither_a_flag_nor_a_path() {
    for name in ["-x", "--drain", "-", ".", "..", "a/b", "a b", ""] {
        let toml = format!("[upstream]\nendpoint = [{{ address = \"a:1\", name = \"{name}\" }}]\n");
        let report = OneFile::new(toml).report(&[], &[]);
        assert!(report.contains("name"), "{name}: {report}");
    }
    let report = load_with(&["-e", "a:1?name=-x"], &[]).unwrap_err().plain();
    assert!(report.contains("read as a flag"), "{report}");
}
