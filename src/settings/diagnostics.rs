//! Diagnostics that point at a line, rendered like those of rustc: everything that is wrong with the settings.
//!
//! A problem of the file shows its line; one of a flag or variable names it. Control characters of untrusted text are
//! replaced before it is printed.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};

use super::node::Origin;
use super::source_file::SourceFile;

/// Problems shown at most.
const MAX_PROBLEMS: usize = 50;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// One line.
    pub title: String,
    pub origin: Origin,
    /// Text beside the underlined part.
    pub label: Option<String>,
    /// Other places that belong to it, with words.
    pub also: Vec<(Origin, String)>,
    pub help: Vec<String>,
}

/// Everything that is wrong. Never empty; holds at most 50 problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file that spans refer to.
    pub source: Option<SourceFile>,
    /// In the order in which they are shown.
    pub problems: Vec<Diagnostic>,
    /// Problems that were found beyond the limit.
    pub omitted: usize,
    /// Warnings that may explain a problem, such as a misspelt variable.
    pub warnings: Vec<String>,
}

// === impl Diagnostic ===

impl Diagnostic {
    pub fn new(title: impl Into<String>, origin: Origin) -> Self {
        Self {
            title: title.into(),
            origin,
            label: None,
            also: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A problem without an origin.
    pub fn bare(title: impl Into<String>) -> Self {
        Self::new(title, Origin::Default)
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    #[must_use]
    pub fn also(mut self, origin: Origin, label: impl Into<String>) -> Self {
        self.also.push((origin, label.into()));
        self
    }

    /// The variable or flag at fault, as the beginning of a sentence.
    fn subject(&self) -> String {
        match &self.origin {
            Origin::Env(name) => format!("{name}: "),
            Origin::Flag(name) => format!("--{name}: "),
            Origin::File(_) | Origin::Default | Origin::Profile => String::new(),
        }
    }

    /// One line, with FILE:LINE where it has one.
    pub fn line(&self, source: Option<&SourceFile>) -> String {
        let at = match (&self.origin, source) {
            (Origin::File(span), Some(source)) => format!("{}: ", source.line_of(span.start)),
            _ => self.subject(),
        };
        let help = self
            .help
            .first()
            .map(|help| format!("; {help}"))
            .unwrap_or_default();
        normalize_untrusted_str(&format!("{at}{}{help}", self.title))
    }
}

// === impl Diagnostics ===

impl Diagnostics {
    /// Sorts the problems (file from top to bottom, variables, flags, others) and keeps the first 50.
    pub(super) fn new(source: Option<SourceFile>, mut problems: Vec<Diagnostic>) -> Self {
        problems.sort_by_key(|problem| match &problem.origin {
            Origin::File(span) => (0, span.start, String::new()),
            Origin::Env(name) => (1, 0, name.clone()),
            Origin::Flag(_) => (2, 0, String::new()),
            Origin::Profile | Origin::Default => (3, 0, String::new()),
        });
        problems.dedup();
        let omitted = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        Self {
            source,
            problems,
            omitted,
            warnings: Vec::new(),
        }
    }

    #[must_use]
    pub(super) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// Exit code of a command that ends with it.
    pub fn exit_code(&self) -> u8 {
        78
    }

    /// Text with colours, for a terminal.
    pub fn styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    pub fn plain(&self) -> String {
        self.render(&Renderer::plain())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let each = self
            .problems
            .iter()
            .map(|problem| renderer.render(&[self.group(problem)]));
        let mut text = each.collect::<Vec<_>>().join("\n\n");
        for warning in &self.warnings {
            text.push_str(&format!(
                "\n\nwarning: {}",
                normalize_untrusted_str(warning)
            ));
        }
        match (self.problems.len(), self.omitted) {
            (0 | 1, 0) => {}
            (shown, 0) => text.push_str(&format!("\n\n{shown} errors")),
            (shown, more) => text.push_str(&format!(
                "\n\n{shown} errors, and {more} more that are not shown"
            )),
        }
        text
    }

    fn group<'a>(&'a self, problem: &'a Diagnostic) -> Group<'a> {
        let title = format!("{}{}", problem.subject(), problem.title);
        let mut group = Group::with_title(Level::ERROR.primary_title(title));
        if let (Origin::File(span), Some(source)) = (&problem.origin, &self.source) {
            let mut annotation = AnnotationKind::Primary.span(source.underline(span));
            if let Some(label) = &problem.label {
                annotation = annotation.label(normalize_untrusted_str(label));
            }
            let mut snippet = Snippet::source(&*source.text)
                .path(source.name.as_str())
                .annotation(annotation);
            for (origin, label) in &problem.also {
                if let Origin::File(span) = origin {
                    let annotation = AnnotationKind::Context.span(source.underline(span));
                    snippet = snippet.annotation(annotation.label(normalize_untrusted_str(label)));
                }
            }
            group = group.element(snippet);
        }
        for (origin, label) in &problem.also {
            let note = match origin {
                Origin::Env(name) => format!("{label}: {name}"),
                Origin::Flag(name) => format!("{label}: --{name}"),
                _ => continue,
            };
            group = group.element(Level::NOTE.message(normalize_untrusted_str(&note)));
        }
        for help in &problem.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        group
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plain())
    }
}

impl std::error::Error for Diagnostics {}

/// The most similar of the known words, if one is similar enough to suggest.
pub(super) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|other| {
            (
                strsim::jaro_winkler(&word, &other.to_lowercase().replace('-', "_")),
                other,
            )
        })
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}
