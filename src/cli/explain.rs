//! `entryway explain`, asking a running instance: where does the next connection go, and why?

use std::io::Write;

use super::args::Output;
use super::failure::CliError;
use super::online::{Instance, clean};
use super::status::print_json;
use crate::admin::status::{Explain, versioned};
use crate::web::query::encode;

/// Asks; `what_if` as on the command line (`zone-down=Z`).
pub async fn run(
    instance: &Instance,
    what_if: &[String],
    output: Output,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let query: Vec<String> = what_if
        .iter()
        .map(|one| format!("what_if={}", encode(one)))
        .collect();
    let path = if query.is_empty() {
        "/v1/explain".to_owned()
    } else {
        format!("/v1/explain?{}", query.join("&"))
    };
    let explain: Explain = instance.read(&path).await?;
    print(&explain, output, to)?;
    Ok(0)
}

/// Prints an explanation, wherever it comes from.
pub fn print(explain: &Explain, output: Output, to: &mut dyn Write) -> Result<(), CliError> {
    if output == Output::Json {
        return print_json(to, &versioned(explain));
    }
    let several = explain
        .order
        .iter()
        .any(|one| one.upstream != explain.order[0].upstream);
    for place in &explain.order {
        let rank = place.rank.map_or("-".to_owned(), |rank| rank.to_string());
        let upstream = if several {
            format!("{}/", place.upstream)
        } else {
            String::new()
        };
        let line = format!("{rank:>2}  {upstream}{} {}", place.endpoint, place.address);
        writeln!(to, "{}  {}", clean(&line), clean(&place.reasons.join(", ")))?;
    }
    for line in explain.verdict.lines() {
        writeln!(to, "{}", clean(line))?;
    }
    Ok(())
}
