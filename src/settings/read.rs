//! Reads the merged tree into the settings structs: a serde deserializer whose errors know their path.
//!
//! serde stops at the first error of a struct. To report all of them in one run, [`read`] records an error, takes
//! the value it is about out of the tree and reads again. Unknown keys are found here and not left to the structs'
//! own attributes, so that no struct can forget to refuse them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

pub(super) use error::{Error, What};

use super::tree::{Entry, Node, Path, Step, Value};

mod error;

/// The keys that each table was found to know, by the table's dotted path.
pub(super) type Known = BTreeMap<String, &'static [&'static str]>;

/// What came of reading: the value, read without what was wrong, and what was wrong.
#[derive(Debug)]
pub(super) struct Outcome<T> {
    /// `None` when nothing could be read even so.
    pub value: Option<T>,
    /// Everything that is wrong, in the order of the tree.
    pub errors: Vec<Error>,
}

/// Reads `tree` as `T`; what is wrong is `Gone` from the tree afterwards.
pub(super) fn read<T: for<'de> Deserialize<'de>>(tree: &mut Node) -> Outcome<T> {
    let mut errors: Vec<Error> = Vec::new();
    loop {
        let found = RefCell::new(Vec::new());
        let error = match T::deserialize(Reader::new(tree, Some(&found), None)) {
            Ok(value) => {
                errors.extend(found.into_inner());
                return Outcome {
                    value: Some(value),
                    errors,
                };
            }
            Err(error) => error.outside_in(),
        };
        // Unknown keys come again with the next reading; only the last one's are kept.
        let path = error.path.clone();
        let follows = matches!(error.what, What::Missing(key)
            if errors.iter().any(|earlier| earlier.path.starts_with(&path.key(key))));
        if !follows {
            errors.push(error);
        }
        match tree.at_mut(&path) {
            Some(node) if node.value != Value::Gone && !path.0.is_empty() => {
                node.value = Value::Gone
            }
            _ => {
                errors.extend(found.into_inner());
                return Outcome {
                    value: None,
                    errors,
                };
            }
        }
    }
}

/// Reads `tree` and notes which keys each struct knows.
#[cfg(test)]
pub(super) fn known_keys<T: for<'de> Deserialize<'de>>(tree: &Node) -> Result<Known, Error> {
    let known = RefCell::new(Known::new());
    T::deserialize(Reader::new(tree, None, Some(&known))).map_err(Error::outside_in)?;
    Ok(known.into_inner())
}

#[derive(Clone)]
struct Reader<'a> {
    node: &'a Node,
    /// Steps from the root, for unknown keys and for `known`.
    path: Path,
    /// Where unknown keys go.
    unknown: Option<&'a RefCell<Vec<Error>>>,
    known: Option<&'a RefCell<Known>>,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(
        node: &'a Node,
        unknown: Option<&'a RefCell<Vec<Error>>>,
        known: Option<&'a RefCell<Known>>,
    ) -> Self {
        Self {
            node,
            path: Path::default(),
            unknown,
            known,
        }
    }

    fn child(&self, node: &'a Node, path: Path) -> Self {
        Self {
            node,
            path,
            ..self.clone()
        }
    }

    fn found(&self) -> Unexpected<'a> {
        match &self.node.value {
            Value::Text(text) | Value::Loose(text) => Unexpected::Str(text),
            Value::Int(number) => Unexpected::Signed(*number),
            Value::Float(number) => Unexpected::Float(*number),
            Value::Bool(yes) => Unexpected::Bool(*yes),
            Value::Other(words) => Unexpected::Other(words),
            Value::List(_) => Unexpected::Seq,
            Value::Table(_) => Unexpected::Map,
            Value::Null | Value::Gone => Unexpected::Other("nothing"),
        }
    }

    fn wrong(&self, expected: &dyn de::Expected) -> Error {
        de::Error::invalid_type(self.found(), expected)
    }

    fn visit_table<V: Visitor<'a>>(
        self,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some(table) = self.node.entries() else {
            return Err(self.wrong(&visitor));
        };
        let mut entries = Vec::with_capacity(table.len());
        for (key, entry) in table {
            match fields {
                Some(fields) if !fields.contains(&key.as_str()) => {
                    if let Some(unknown) = self.unknown {
                        let what = What::UnknownKey(key.clone(), fields);
                        unknown.borrow_mut().push(Error {
                            path: self.path.key(key),
                            what,
                        });
                    }
                }
                _ if matches!(entry.node.value, Value::Gone | Value::Null) => {}
                _ => entries.push((key, entry)),
            }
        }
        visitor.visit_map(Entries {
            reader: self,
            left: entries.into_iter(),
            value: None,
        })
    }

    fn visit_number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Loose(text) => match text.trim().parse::<i64>() {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => Err(self.wrong(&visitor)),
            },
            _ => de::Deserializer::deserialize_any(self, visitor),
        }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.visit_number(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Error;

    numbers!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8 deserialize_i16
        deserialize_i32 deserialize_i64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Text(text) | Value::Loose(text) => visitor.visit_borrowed_str(text),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Bool(yes) => visitor.visit_bool(*yes),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Table(_) => self.visit_table(None, visitor),
            Value::Null | Value::Gone => visitor.visit_none(),
            Value::Other(_) => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Loose(text) => match text.trim() {
                "true" | "1" => visitor.visit_bool(true),
                "false" | "0" => visitor.visit_bool(false),
                _ => Err(self.wrong(&"true, false, 1 or 0")),
            },
            Value::Int(number @ (0 | 1)) => visitor.visit_bool(*number == 1),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Loose(text) => match text.trim().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(self.wrong(&visitor)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = self.node.items();
        visitor.visit_seq(Items {
            reader: self,
            items,
            next: 0,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_table(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Some(known) = self.known {
            known.borrow_mut().insert(self.path.to_string(), fields);
        }
        self.visit_table(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.node.as_text() {
            Some(word) => visitor.visit_enum(word.into_deserializer()),
            None => Err(self.wrong(&visitor)),
        }
    }

    forward_to_deserialize_any! {
        f32 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any i128 u128
    }
}

struct Entries<'a> {
    reader: Reader<'a>,
    left: std::vec::IntoIter<(&'a String, &'a Entry)>,
    value: Option<(&'a String, &'a Entry)>,
}

impl<'a> de::MapAccess<'a> for Entries<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.value = self.left.next();
        match self.value {
            None => Ok(None),
            Some((key, _)) => seed
                .deserialize(de::value::BorrowedStrDeserializer::new(key))
                .map(Some)
                .map_err(|error: Error| error.inside(Step::Key(key.clone()))),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, entry)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = self.reader.path.key(key);
        seed.deserialize(self.reader.child(&entry.node, path))
            .map_err(|error| error.inside(Step::Key(key.clone())))
    }
}

struct Items<'a> {
    reader: Reader<'a>,
    items: &'a [Node],
    next: usize,
}

impl<'a> de::SeqAccess<'a> for Items<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        while let Some(item) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if item.value != Value::Gone {
                let path = self.reader.path.index(index);
                return seed
                    .deserialize(self.reader.child(item, path))
                    .map(Some)
                    .map_err(|error| error.inside(Step::Index(index)));
            }
        }
        Ok(None)
    }
}
