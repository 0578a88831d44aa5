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

#[test]
fn every_subcommand_of_the_contract_is_there() {
    let contract = "run demo mock doctor check plan explain snippet status wait healthcheck endpoint reload shutdown \
                    guide completions version";
    let command = command();
    let ours: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    assert_eq!(ours, contract.split_whitespace().collect::<Vec<_>>());
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
        let said = say(&mut error);
        assert!(said.contains(guess), "{line}: {said}");
    }
}

#[test]
fn an_unknown_flag_is_not_offered_as_a_command() {
    let line = ["entryway", "run", "--nonesuch"];
    let mut error = command().try_get_matches_from(line).unwrap_err();
    let said = say(&mut error);
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
    assert_eq!(shared::host_port("").as_deref(), Ok(DEFAULT_INSTANCE));
    for bad in ["8183", "localhost", "a:b", "a:99999"] {
        assert!(shared::host_port(bad).is_err(), "{bad}");
    }
}
