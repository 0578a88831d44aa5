use super::*;

#[test]
fn the_command_line_is_sound() {
    command().debug_assert();
}

#[test]
fn what_is_not_understood_is_exit_code_2_with_a_guess() {
    for (line, says) in [
        ("entryway run --endpont a:1", "'--endpoint'"),
        ("entryway rum", "'run'"),
        (
            "entryway run --connect-timeout banana",
            "`banana` is not a duration",
        ),
        ("entryway run --fall x", "whole number"),
        ("entryway run --listen banana", "127.0.0.1:8182"),
        ("entryway run --when-all-down hope", "hold"),
        ("entryway run --quiet everything", "conns"),
        ("entryway snippet yaml", "k8s"),
        ("entryway wait --for never", "healthy=N"),
        ("entryway check --output yaml", "text or json"),
        ("entryway status --admin banana", "HOST:PORT"),
        ("entryway status --admin :8183", "HOST:PORT"),
        ("entryway run --peering=maybe", "maybe"),
    ] {
        let error = command().try_get_matches_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(says), "{line}: {error}");
    }
}

/// Whether this build has not got the command, which others have.
fn lacks(name: &str) -> bool {
    let built = |feature: &str| match feature {
        "gateway" => cfg!(feature = "gateway"),
        "load" => cfg!(feature = "load"),
        "top" => cfg!(feature = "top"),
        _ => cfg!(feature = "faults"),
    };
    let optional = hint::OPTIONAL
        .iter()
        .find(|(optional, _)| *optional == name);
    optional.is_some_and(|(_, features)| !features.split(", ").all(built))
}

#[test]
fn every_subcommand_is_there() {
    let expected = "run demo mock doctor check plan explain snippet init status top slo incident wait healthcheck endpoint reload upgrade shutdown \
                    gateway cert load drill guide completions man version";
    let expected: Vec<&str> = expected
        .split_whitespace()
        .filter(|name| !lacks(name))
        .collect();
    let command = command();
    let ours: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    assert_eq!(ours, expected);
    // A build that lacks one says so, instead of guessing at another.
    for (name, _) in hint::OPTIONAL.iter().filter(|(name, _)| lacks(name)) {
        let mut error = super::command()
            .try_get_matches_from(["entryway", name])
            .unwrap_err();
        let text = render_error(&mut error);
        assert!(text.contains("this program was built without it"), "{text}");
    }
}

#[test]
fn the_wrapper_takes_everything_behind_two_dashes() {
    let matches =
        command().get_matches_from(["entryway", "run", "-e", "a:1", "--", "sh", "-c", "exit 3"]);
    let (_, run) = matches.subcommand().unwrap();
    let words: Vec<_> = run
        .get_many::<std::ffi::OsString>(COMMAND)
        .unwrap()
        .collect();
    assert_eq!(words, ["sh", "-c", "exit 3"]);
}

#[test]
fn a_near_miss_is_answered_with_a_guess() {
    for (line, guess) in [
        ("entryway run --endpont a:1", "did you mean"),
        ("entryway rum", "did you mean"),
        ("entryway run --when-all-down hol", "did you mean"),
        ("entryway snippet promtheus", "did you mean"),
    ] {
        let mut error = command().try_get_matches_from(line.split(' ')).unwrap_err();
        let said = render_error(&mut error);
        assert!(said.contains(guess), "{line}: {said}");
    }
}

#[test]
fn an_unknown_flag_is_not_offered_as_a_command() {
    let line = ["entryway", "run", "--nonesuch"];
    let mut error = command().try_get_matches_from(line).unwrap_err();
    let said = render_error(&mut error);
    assert!(
        said.contains("nonesuch") && !said.contains("as a value"),
        "{said}"
    );
}

#[test]
fn an_instance_is_host_and_port_and_an_empty_variable_is_none() {
    for good in ["127.0.0.1:8183", "localhost:1", "[::1]:8183", "off"] {
        assert_eq!(shared::host_port(good).as_deref(), Ok(good));
    }
    assert_eq!(shared::host_port("").as_deref(), Ok(""));
    for bad in ["8183", "localhost", "a:b", "a:99999"] {
        assert!(shared::host_port(bad).is_err(), "{bad}");
    }
}

#[test]
fn known_mistakes_are_answered_with_what_to_type() {
    for (line, hint) in [
        ("entryway rnu", "did you mean `run`"),
        ("entryway run 10.0.0.1:8182", "--endpoint 10.0.0.1:8182"),
        ("entryway check my.toml", "-c my.toml"),
        ("entryway run --socks localhost:1080", "HOST"),
        ("entryway run --proxy=x", "HOST"),
        ("entryway run -e a:1 -v", "--log-level debug"),
        ("entryway run -e a:1 --verbose", "--log-level debug"),
        ("entryway run -e a:1 -p 9000", "--listen 127.0.0.1:PORT"),
        (
            "entryway run -e a:1 --connect-timeout -5s",
            "cannot be negative",
        ),
    ] {
        let mut error = command().try_get_matches_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        let text = render_error(&mut error);
        assert!(
            text.contains("hint: ") && text.contains(hint),
            "{line}: {text}"
        );
    }
}

#[test]
fn a_dns_server_needs_no_port() {
    for (text, fine) in [
        ("10.0.0.2", true),
        ("10.0.0.2:5353", true),
        ("::1", true),
        ("[::1]", true),
        ("[::1]:53", true),
        ("dns.example", false),
        ("10.0.0.2:", false),
        ("10.0.0.2:99999", false),
    ] {
        let line = ["entryway", "run", "-e", "a:1", "--dns-server", text];
        assert_eq!(command().try_get_matches_from(line).is_ok(), fine, "{text}");
    }
}

#[cfg(all(
    feature = "gateway",
    feature = "faults",
    feature = "load",
    feature = "top"
))]
/// Usage, arguments and flags of a command, without the flags that are settings.
fn describe(command: &Command, name: &str, page: &mut String) {
    use std::fmt::Write as _;
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    writeln!(
        page,
        "\n### entryway {name}\n\n{}",
        crate::guide::wrap(&format!("{about}."), "")
    )
    .unwrap();
    let mut groups: Vec<&str> = Vec::new();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if crate::settings::flags::FLAGS
            .iter()
            .any(|flag| flag.id == id)
        {
            let heading = arg.get_help_heading().unwrap_or_default();
            if !groups.contains(&heading) {
                groups.push(heading);
            }
            continue;
        }
        if ["help", "version"].contains(&id) {
            continue;
        }
        let value = arg
            .get_value_names()
            .unwrap_or_default()
            .first()
            .map(|name| name.to_string());
        let takes_value = arg.get_action().takes_values();
        let spelling = match (arg.get_long(), value.filter(|_| takes_value)) {
            (Some(long), Some(value)) => format!("--{long} {value}"),
            (Some(long), None) => format!("--{long}"),
            (None, Some(value)) if arg.is_last_set() => format!("-- {value}…"),
            (None, value) => value.unwrap_or_default(),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let default = match defaults[..] {
            [ref only] if takes_value => format!(" Default {only}."),
            _ => String::new(),
        };
        page.push_str(&format!(
            "- `{spelling}`:\n{}",
            crate::guide::wrap(&format!("{help}.{default}"), "  ")
        ));
    }
    if !groups.is_empty() {
        page.push_str(&format!("- setting flags: {}\n", groups.join(", ")));
    }
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        describe(sub, &format!("{name} {}", sub.get_name()), page);
    }
}

/// It describes the program with all its optional parts.
#[cfg(all(
    feature = "gateway",
    feature = "faults",
    feature = "load",
    feature = "top"
))]
#[test]
fn the_reference_page_lists_every_command() {
    let mut command = command();
    command.build();
    let mut page = String::new();
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        describe(sub, sub.get_name(), &mut page);
    }
    let page = page.replace("\n\n\n", "\n\n");
    crate::guide::check_generated("reference-cli.md", "commands", &page);
}

#[test]
fn the_reference_page_lists_every_exit_code() {
    let rows: String = crate::cli::exit_codes::TABLE
        .iter()
        .map(|(code, meaning)| {
            let text = crate::guide::wrap(meaning, "     ");
            format!("- {code:<3}{}", text.trim_start())
        })
        .collect();
    crate::guide::check_generated("reference-cli.md", "exit codes", &rows);
}

/// The commands of a page: lines of its code blocks, and code in its sentences, that begin with the program's name.
fn commands_of(page: &str) -> Vec<Vec<String>> {
    let (mut lines, mut sentences) = (String::new(), String::new());
    for (index, part) in page.split("```").enumerate() {
        match index % 2 {
            0 => sentences.push_str(part),
            _ => lines.push_str(part),
        }
    }
    let lines = lines.replace("\\\n", " ");
    let inline = sentences.split('`').skip(1).step_by(2);
    let commands = lines
        .lines()
        .chain(inline)
        .filter_map(|text| text.trim().strip_prefix("entryway "));
    commands
        .map(|rest| {
            // What follows is the shell's or, after `--`, another program's.
            let own = rest
                .split(['|', '>', '#', ';', '&', '<', '…'])
                .next()
                .unwrap_or_default();
            let own = own.split(" -- ").next().unwrap_or_default();
            let words = own
                .split_whitespace()
                .map(|word| word.replace(['\'', '"', '[', ']'], ""));
            std::iter::once("entryway".to_owned())
                .chain(words)
                .collect()
        })
        .collect()
}

/// Values may be placeholders (`NAME`); commands and flags may not.
#[test]
fn the_commands_of_the_pages_are_commands() {
    let (mut count, mut wrong) = (0, Vec::new());
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    pages.extend(
        std::fs::read_dir(root.join("src/guide"))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    pages.retain(|page| page.extension().is_some_and(|ending| ending == "md"));
    for page in pages {
        let (text, page) = (std::fs::read_to_string(&page).unwrap(), page.display());
        for words in commands_of(&text) {
            // A word such as COMMAND stands for any.
            if words
                .get(1)
                .is_none_or(|word| word.chars().all(char::is_uppercase) || lacks(word))
            {
                continue;
            }
            count += 1;
            let Err(error) = command().try_get_matches_from(&words) else {
                continue;
            };
            let is_wrong = matches!(
                error.kind(),
                clap::error::ErrorKind::UnknownArgument | clap::error::ErrorKind::InvalidSubcommand
            );
            if is_wrong {
                wrong.push(format!("{page}: {words:?}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 80, "commands are found: {count}");
}
