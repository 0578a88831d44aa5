//! Errors that point at a line: what is wrong with the settings, all of it, as text like rustc's.
//!
//! A problem of the file shows its line; one of a flag or variable names it. Text from outside is made harmless
//! before it is shown.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};

use super::source::Source;
use super::tree::Place;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one line.
    pub title: String,
    /// Where.
    pub place: Place,
    /// Words at the underlined text.
    pub label: Option<String>,
    /// Other places that belong to it, with words.
    pub also: Vec<(Place, String)>,
    /// What to do about it.
    pub help: Vec<String>,
}

/// Everything that is wrong. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file that spans point into.
    pub source: Option<Source>,
    /// In the order in which they are shown.
    pub problems: Vec<Problem>,
}

// === impl Problem ===

impl Problem {
    /// A problem at a place.
    pub fn new(title: impl Into<String>, place: Place) -> Self {
        Self {
            title: title.into(),
            place,
            label: None,
            also: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A problem that no line, flag or variable is to blame for.
    pub fn bare(title: impl Into<String>) -> Self {
        Self::new(title, Place::Default)
    }

    /// With a piece of advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// With words at the underlined text.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// With another place that belongs to it.
    #[must_use]
    pub fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.also.push((place, label.into()));
        self
    }

    /// Who said it, for problems that stand in no file.
    fn speaker(&self) -> String {
        match &self.place {
            Place::Env(name) => format!("{name}: "),
            Place::Flag(name) => format!("--{name}: "),
            Place::File(_) | Place::Default | Place::Profile => String::new(),
        }
    }

    /// In one line, with FILE:LINE where there is one.
    pub fn line(&self, source: Option<&Source>) -> String {
        let at = match (&self.place, source) {
            (Place::File(span), Some(source)) => format!("{}: ", source.line_of(span.start)),
            _ => self.speaker(),
        };
        let help = self
            .help
            .first()
            .map(|help| format!("; {help}"))
            .unwrap_or_default();
        normalize_untrusted_str(&format!("{at}{}{help}", self.title))
    }
}

// === impl Report ===

impl Report {
    /// Sorts what is wrong by where it stands: the file from top to bottom, then variables, flags, the rest.
    pub(super) fn new(source: Option<Source>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match &problem.place {
            Place::File(span) => (0, span.start, String::new()),
            Place::Env(name) => (1, 0, name.clone()),
            Place::Flag(_) => (2, 0, String::new()),
            Place::Profile | Place::Default => (3, 0, String::new()),
        });
        problems.dedup();
        Self { source, problems }
    }

    /// The contract's exit code for it.
    pub fn exit_code(&self) -> u8 {
        78
    }

    /// As text with colours, for a terminal.
    pub fn styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    /// As text without colours.
    pub fn plain(&self) -> String {
        self.render(&Renderer::plain())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let each = self
            .problems
            .iter()
            .map(|problem| renderer.render(&[self.group(problem)]));
        let mut text = each.collect::<Vec<_>>().join("\n\n");
        if self.problems.len() > 1 {
            text.push_str(&format!("\n\n{} settings are wrong", self.problems.len()));
        }
        text
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let title = format!("{}{}", problem.speaker(), problem.title);
        let mut group = Group::with_title(Level::ERROR.primary_title(title));
        if let (Place::File(span), Some(source)) = (&problem.place, &self.source) {
            let mut annotation = AnnotationKind::Primary.span(source.underline(span));
            if let Some(label) = &problem.label {
                annotation = annotation.label(normalize_untrusted_str(label));
            }
            let mut snippet = Snippet::source(&*source.text)
                .path(source.name.as_str())
                .annotation(annotation);
            for (place, label) in &problem.also {
                if let Place::File(span) = place {
                    let annotation = AnnotationKind::Context.span(source.underline(span));
                    snippet = snippet.annotation(annotation.label(normalize_untrusted_str(label)));
                }
            }
            group = group.element(snippet);
        }
        for (place, label) in &problem.also {
            let spoken = match place {
                Place::Env(name) => format!("{label}: {name}"),
                Place::Flag(name) => format!("{label}: --{name}"),
                _ => continue,
            };
            group = group.element(Level::NOTE.message(normalize_untrusted_str(&spoken)));
        }
        for help in &problem.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        group
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plain())
    }
}

impl std::error::Error for Report {}

/// The closest of the known words, if one is close: for "did you mean".
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
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}
