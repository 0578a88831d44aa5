//! The forms of an EDN text and where they stand.
//!
//! The parser knows delimiters, strings, characters, comments, discards, tags, metadata and namespaced maps; numbers
//! and symbols are left unread. It keeps the span of everything that can hold a client map, so that a value can be
//! replaced and every other byte stays.

use std::borrow::Cow;
use std::ops::Range;

/// Deeper nesting is an error, because the parser recurses.
const MAX_DEPTH: usize = 256;

/// One form. A tag or metadata belongs to the form it precedes.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) span: Range<usize>,
    pub(super) kind: FormKind,
}

#[derive(Debug)]
pub(super) enum FormKind {
    Map(Map),
    /// A vector, list or set: those of its elements that hold other forms, each with its index.
    Elements(Vec<(usize, Form)>),
    /// `#tag form`: the span of `#tag`, and the form.
    Tagged(Range<usize>, Box<Form>),
    /// `^metadata form`.
    WithMeta(Box<Form>),
    /// A string, number, keyword, symbol or character.
    Atom,
}

/// A map, plain (`{…}`) or namespaced (`#:ns{…}`).
#[derive(Debug)]
pub(super) struct Map {
    /// Where its opening brace stands.
    pub(super) open: usize,
    /// The namespace of `#:ns{…}`, without the colon.
    pub(super) namespace: Option<Range<usize>>,
    pub(super) entries: Vec<MapEntry>,
}

#[derive(Debug)]
pub(super) struct MapEntry {
    pub(super) key: Form,
    pub(super) value: Form,
}

/// What is wrong with the text, and the byte offset of where.
#[derive(Debug)]
pub(super) struct SyntaxFault {
    pub(super) at: usize,
    pub(super) what: Cow<'static, str>,
}

type FormResult<T> = Result<T, SyntaxFault>;

/// Parses the first form of a text, as Clojure's own readers do; what follows it is ignored.
pub(super) fn parse(text: &str) -> FormResult<Form> {
    // Some editors write a byte order mark, which is no part of the first form.
    let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let mut parser = Parser { text, at, depth: 0 };
    parser.skip_trivia()?;
    match parser.peek() {
        None => parser.fault(parser.at, "there is nothing in it"),
        Some('}' | ']' | ')') => {
            parser.fault(parser.at, "a closing delimiter without an opening one")
        }
        Some('{' | '#' | '^') => parser.form(),
        Some(_) => parser.fault(
            parser.at,
            "the first form is not a map: a client map looks like {:server-type :cloud …}",
        ),
    }
}

/// Whether a character separates forms and means nothing else.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == ','
}

fn ends_token(c: char) -> bool {
    is_blank(c) || matches!(c, '{' | '}' | '[' | ']' | '(' | ')' | '"' | ';')
}

#[derive(Debug)]
struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

// === impl Form ===

impl Form {
    /// The form behind its tags and metadata.
    pub(super) fn bare(&self) -> &Form {
        match &self.kind {
            FormKind::Tagged(_, form) | FormKind::WithMeta(form) => form.bare(),
            _ => self,
        }
    }

    /// The tag in front of the form, if any.
    pub(super) fn tag(&self) -> Option<Range<usize>> {
        match &self.kind {
            FormKind::Tagged(tag, _) => Some(tag.clone()),
            FormKind::WithMeta(form) => form.tag(),
            _ => None,
        }
    }
}

// === impl Map ===

impl Map {
    /// A key's name as the application sees it: `:k`, in a namespaced map `:ns/k`. Keys that are no keywords keep
    /// the text they have.
    pub(super) fn key_name<'t>(&self, text: &'t str, entry: &MapEntry) -> Cow<'t, str> {
        let written = &text[entry.key.span.clone()];
        let (Some(namespace), Some(name)) = (&self.namespace, written.strip_prefix(':')) else {
            return Cow::Borrowed(written);
        };
        match name.strip_prefix("_/") {
            Some(plain) => Cow::Owned(format!(":{plain}")),
            None if name.contains('/') => Cow::Borrowed(written),
            None => Cow::Owned(format!(":{}/{name}", &text[namespace.clone()])),
        }
    }
}

// === impl Parser ===

impl<'t> Parser<'t> {
    /// One form, which begins here.
    fn form(&mut self) -> FormResult<Form> {
        let start = self.at;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fault(start, "nested deeper than any configuration");
        }
        let kind = match self.peek() {
            None => return self.fault(start, "the text ends where a value was expected"),
            Some('{') => FormKind::Map(self.map(None)?),
            Some('[') => self.elements(']')?,
            Some('(') => self.elements(')')?,
            Some('"') => self.string()?,
            Some('\\') => self.character()?,
            Some('#') => self.dispatch()?,
            Some('^') => {
                self.at += 1;
                self.next_form()?;
                FormKind::WithMeta(Box::new(self.next_form()?))
            }
            Some('}' | ']' | ')') => return self.fault(start, "a closing delimiter too many"),
            Some(_) => {
                self.skip_token();
                FormKind::Atom
            }
        };
        self.depth -= 1;
        Ok(Form {
            span: start..self.at,
            kind,
        })
    }

    /// The form after a prefix such as `#tag`.
    fn next_form(&mut self) -> FormResult<Form> {
        self.skip_trivia()?;
        self.form()
    }

    fn map(&mut self, namespace: Option<Range<usize>>) -> FormResult<Map> {
        let open = self.at;
        self.at += 1;
        let mut entries = Vec::new();
        loop {
            self.skip_trivia()?;
            if self.closes('}', open)? {
                return Ok(Map {
                    open,
                    namespace,
                    entries,
                });
            }
            let key = self.form()?;
            self.skip_trivia()?;
            if self.closes('}', open)? {
                return self.fault(key.span.start, "a key without a value");
            }
            let value = self.form()?;
            entries.push(MapEntry { key, value });
        }
    }

    fn elements(&mut self, close: char) -> FormResult<FormKind> {
        let open = self.at;
        self.at += 1;
        let mut elements = Vec::new();
        for index in 0.. {
            self.skip_trivia()?;
            if self.closes(close, open)? {
                break;
            }
            let form = self.form()?;
            if !matches!(form.kind, FormKind::Atom) {
                elements.push((index, form));
            }
        }
        Ok(FormKind::Elements(elements))
    }

    /// Takes the closing delimiter if it is next.
    fn closes(&mut self, close: char, open: usize) -> FormResult<bool> {
        match self.peek() {
            None => self.fault(open, "opened here and never closed"),
            Some(c) if c == close => {
                self.at += 1;
                Ok(true)
            }
            Some(c @ ('}' | ']' | ')')) => {
                self.fault(self.at, format!("{c} where {close} was expected"))
            }
            Some(_) => Ok(false),
        }
    }

    /// `#{…}` `#:ns{…}` `##Inf` `#tag form`.
    fn dispatch(&mut self) -> FormResult<FormKind> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some('{') => self.elements('}'),
            Some('#') => {
                self.at += 1;
                self.skip_token();
                Ok(FormKind::Atom)
            }
            Some(':') => {
                self.at += 1;
                let namespace = self.at..{
                    self.skip_token();
                    self.at
                };
                self.skip_trivia()?;
                match self.peek() {
                    Some('{') => Ok(FormKind::Map(self.map(Some(namespace))?)),
                    _ => self.fault(start, "#: is not followed by a map"),
                }
            }
            Some(c) if !ends_token(c) => {
                self.skip_token();
                let tag = start..self.at;
                Ok(FormKind::Tagged(tag, Box::new(self.next_form()?)))
            }
            _ => self.fault(start, "# begins nothing here that EDN knows"),
        }
    }

    fn string(&mut self) -> FormResult<FormKind> {
        let open = self.at;
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.at = open + offset + 1;
                    return Ok(FormKind::Atom);
                }
                _ => {}
            }
        }
        self.fault(open, "a string begins here and never ends")
    }

    fn character(&mut self) -> FormResult<FormKind> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            None => self.fault(start, "a character literal without its character"),
            Some(c) => {
                // The first one is taken whatever it is: \{ and \" are characters.
                self.at += c.len_utf8();
                self.skip_token();
                Ok(FormKind::Atom)
            }
        }
    }

    fn skip_token(&mut self) {
        let rest = self.rest();
        self.at += rest.find(ends_token).unwrap_or(rest.len());
    }

    /// Skips what means nothing: white space, commas, comments, discarded forms.
    fn skip_trivia(&mut self) -> FormResult<()> {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start_matches(is_blank).len();
            let rest = self.rest();
            if rest.starts_with(';') {
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if rest.starts_with("#_") {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return self.fault(self.at, "nested deeper than any configuration");
                }
                self.at += 2;
                self.next_form()?;
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

    fn fault<T>(&self, at: usize, what: impl Into<Cow<'static, str>>) -> FormResult<T> {
        Err(SyntaxFault {
            at,
            what: what.into(),
        })
    }
}
