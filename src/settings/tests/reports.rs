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
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_that_are_none() {
    let says =
        |bytes: &[u8], expected: &str| assert_eq!(OneFile::new(bytes).report(&[], &[]), expected);
    says(
        b"",
        "error: entryway.toml is empty\n |\n = help: start from one of the samples in config/, or leave out --config",
    );
    says(
        b"\n \t\n",
        "error: entryway.toml is empty\n |\n = help: start from one of the samples in config/, or leave out --config",
    );
    says(
        b"\x7fELF\0\0",
        "error: entryway.toml is a binary file, not TOML",
    );
    says(
        b"# fine\nname = \"\xff\"\n",
        "error: entryway.toml:2 is not UTF-8 text\n |\n = help: save the file as UTF-8; TOML knows no other encoding",
    );
    says(
        &vec![b'#'; 1024 * 1024 + 1],
        "error: entryway.toml is larger than 1 MiB; that is no settings file",
    );
    let report = |path: &str| load_with(&["-c", path], &[]).unwrap_err().plain();
    assert_eq!(
        report("/nowhere/entryway.toml"),
        "error: cannot read /nowhere/entryway.toml: no such file or directory\n |\n \
         = help: give the path of a file with --config, or leave it out: no file is searched for"
    );
    assert_eq!(
        report("/"),
        "error: cannot read /: is a directory\n |\n = help: give the path of a file, not of a folder"
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
fn the_terminal_gets_colours_and_nobody_else() {
    let report = load_with(&[], &[]).unwrap_err();
    assert!(report.styled().contains('\u{1b}'));
    assert!(!report.to_string().contains('\u{1b}'));
}
