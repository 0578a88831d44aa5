//! The text that spans point into.

use std::sync::Arc;

/// A file as it was read: name and text stay together, so that a span is never used on another version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as it was given.
    pub name: String,
    /// The whole text.
    pub text: Arc<str>,
}

// === impl SourceFile ===

impl SourceFile {
    /// `FILE:LINE` of a byte.
    pub fn line_of(&self, byte: usize) -> String {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}", self.name)
    }

    /// A span cut to its first line and to the text: a table's span may reach far down.
    pub(super) fn underline(&self, span: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let start = span.start.min(self.text.len());
        let end = span.end.clamp(start, self.text.len());
        let length = self
            .text
            .get(start..end)
            .map_or(0, |text| text.find('\n').unwrap_or(text.len()));
        start..start + length
    }
}
