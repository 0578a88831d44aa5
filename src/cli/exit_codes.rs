//! Every exit code and what it means; part of the reference.

/// Code and meaning, in ascending order.
pub const TABLE: &[(&str, &str)] = &[
    (
        "0",
        "Done, or drained, also if the drain reached its deadline or was ended by a second signal.",
    ),
    (
        "1",
        "`doctor` found a failure, `healthcheck` is not ok, a client of `demo` failed, the command could not be started, or the drill could not run.",
    ),
    (
        "2",
        "The command line was not understood: an unknown flag or subcommand, or a value of the wrong type.",
    ),
    ("3", "With `--strict-exit`: connections had to be reset."),
    (
        "69",
        "No instance answers, or there is no endpoint of that name.",
    ),
    ("70", "Internal error; please report it."),
    ("71", "The operating system refused something."),
    (
        "73",
        "An address cannot be bound; the process that holds it is named.",
    ),
    ("75", "Timed out."),
    ("77", "Permission: token, control socket, privileged port."),
    ("78", "A setting is wrong, from whichever source."),
    ("99", "A limit that was asked for was exceeded."),
    (
        "CMD",
        "`run -- CMD`: the exit code of CMD; 128 + n if signal n ended it.",
    ),
];
