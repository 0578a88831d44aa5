//! Where the forms of an EDN text begin and end. Knows delimiters, strings, characters, comments, discards, tags and
//! metadata; does not read numbers or symbols.

use std::borrow::Cow;
use std::ops::Range;

/// Deeper nesting is an error: the scanner recurses.
const DEEPEST: usize = 256;

/// The spans of one key and its value; a tag or metadata before the value belongs to it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

/// What is wrong, and the byte offset of where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) what: Cow<'static, str>,
}

/// Walks over a text, form by form.
#[derive(Debug)]
pub(super) struct Scanner<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

type Scanned<T> = Result<T, Fault>;

// === impl Scanner ===

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        // A byte order mark is what some editors leave; it is no part of the first form.
        let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Self { text, at, depth: 0 }
    }

    /// The entries of the map that is the text's first form.
    pub(super) fn top_level(mut self) -> Scanned<Vec<Entry>> {
        self.trivia()?;
        let what = match self.peek() {
            Some('{') => return self.map(),
            None => "there is nothing in it",
            Some('#') if self.rest().starts_with("#:") => {
                "the map at the top has namespaced keys (#:…{), a client map has plain ones"
            }
            Some('}' | ']' | ')') => "a closing delimiter without an opening one",
            Some(_) => {
                "the first form is not a map: a client map looks like {:server-type :cloud …}"
            }
        };
        self.fault(self.at, what)
    }

    fn map(&mut self) -> Scanned<Vec<Entry>> {
        let open = self.at;
        self.at += 1;
        let mut entries = Vec::new();
        loop {
            self.trivia()?;
            if self.closes('}', open)? {
                return Ok(entries);
            }
            let key = self.form()?;
            self.trivia()?;
            if self.closes('}', open)? {
                return self.fault(key.start, "a key without a value");
            }
            let value = self.form()?;
            entries.push(Entry { key, value });
        }
    }

    fn sequence(&mut self, close: char) -> Scanned<()> {
        let open = self.at;
        self.at += 1;
        loop {
            self.trivia()?;
            if self.closes(close, open)? {
                return Ok(());
            }
            self.form()?;
        }
    }

    /// Takes the closing delimiter if it is next.
    fn closes(&mut self, close: char, open: usize) -> Scanned<bool> {
        match self.peek() {
            None => self.fault(open, "opened here and never closed"),
            Some(c) if c == close => {
                self.at += 1;
                Ok(true)
            }
            Some(c @ ('}' | ']' | ')')) => {
                let at = self.at;
                self.fault(at, format!("{c} where {close} was expected"))
            }
            Some(_) => Ok(false),
        }
    }

    /// One form, which begins here.
    fn form(&mut self) -> Scanned<Range<usize>> {
        let start = self.at;
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.fault(start, "nested deeper than any configuration");
        }
        match self.peek() {
            None => return self.fault(start, "the text ends where a value was expected"),
            Some('{') => drop(self.map()?),
            Some('[') => self.sequence(']')?,
            Some('(') => self.sequence(')')?,
            Some('"') => self.string()?,
            Some('\\') => self.character()?,
            Some('#') => self.dispatch()?,
            Some('^') => {
                self.at += 1;
                self.after_prefix()?;
                self.after_prefix()?;
            }
            Some('}' | ']' | ')') => return self.fault(start, "a closing delimiter too many"),
            Some(_) => self.token(),
        }
        self.depth -= 1;
        Ok(start..self.at)
    }

    fn after_prefix(&mut self) -> Scanned<()> {
        self.trivia()?;
        self.form()?;
        Ok(())
    }

    /// `#{` `#:ns{` `##Inf` `#tag form`.
    fn dispatch(&mut self) -> Scanned<()> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some('{') => self.sequence('}'),
            Some('#') => {
                self.at += 1;
                self.token();
                Ok(())
            }
            Some(c) if !boundary(c) => {
                self.token();
                self.after_prefix()
            }
            _ => self.fault(start, "# begins nothing here that EDN knows"),
        }
    }

    fn string(&mut self) -> Scanned<()> {
        let open = self.at;
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.at = open + offset + 1;
                    return Ok(());
                }
                _ => {}
            }
        }
        self.fault(open, "a string begins here and never ends")
    }

    fn character(&mut self) -> Scanned<()> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            None => self.fault(start, "a character literal without its character"),
            Some(c) => {
                // The first one is taken whatever it is: \{ and \" are characters.
                self.at += c.len_utf8();
                self.token();
                Ok(())
            }
        }
    }

    /// Goes to the end of a token.
    fn token(&mut self) {
        let rest = self.rest();
        self.at += rest.find(boundary).unwrap_or(rest.len());
    }

    /// Skips what means nothing: white space, commas, comments, discarded forms.
    fn trivia(&mut self) -> Scanned<()> {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start_matches(blank).len();
            let rest = self.rest();
            if rest.starts_with(';') {
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if rest.starts_with("#_") {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return self.fault(self.at, "nested deeper than any configuration");
                }
                self.at += 2;
                self.after_prefix()?;
                self.depth -= 1;
            } else {
                return Ok(());
            }
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn fault<T>(&self, at: usize, what: impl Into<Cow<'static, str>>) -> Scanned<T> {
        let what = what.into();
        Err(Fault { at, what })
    }
}

fn blank(c: char) -> bool {
    c.is_whitespace() || c == ','
}

fn boundary(c: char) -> bool {
    blank(c) || matches!(c, '{' | '}' | '[' | ']' | '(' | ')' | '"' | ';')
}
