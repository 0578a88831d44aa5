//! Deserializes the merged tree into the settings structs; every error has the path of its value.
//!
//! serde stops at the first error of a struct. To report all of them in one run, [`read`] records an error, marks the
//! value it is about as invalid and reads again, as long as the work stays linear in the size of the tree. Unknown keys
//! are found here and not left to attributes of the structs, so that no struct can forget to refuse them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

pub(super) use diagnose::diagnose;
pub(super) use error::{Error, What};

use super::node::{KeyPath, Node, NodeValue, PathStep, TableEntry};

mod diagnose;
mod error;

/// Errors that are reported one by one in a tree of any size.
const MIN_READINGS: usize = 50;

/// Nodes visited in all before further errors are left for the next run.
const MAX_NODES_READ: usize = 2_000_000;

/// Keys of each table, by the table's dotted path.
pub(super) type KnownKeys = BTreeMap<String, &'static [&'static str]>;

#[derive(Debug)]
pub(super) struct Deserialized<T> {
    /// The value without its invalid parts; `None` if nothing could be read.
    pub value: Option<T>,
    /// In the order of the tree.
    pub errors: Vec<Error>,
}

/// Deserializes `tree`; values that are wrong are `Invalid` in it afterwards.
pub(super) fn read<T: for<'de> Deserialize<'de>>(tree: &mut Node) -> Deserialized<T> {
    let mut errors: Vec<Error> = Vec::new();
    // Each error costs a reading of the whole tree.
    let nodes = tree.count().max(1);
    let readings = MIN_READINGS.max(MAX_NODES_READ / nodes);
    loop {
        let found = RefCell::new(Vec::new());
        let error = match T::deserialize(NodeDeserializer::new(tree, Some(&found), None)) {
            Ok(value) => {
                errors.extend(found.into_inner());
                return Deserialized {
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
            Some(node)
                if node.value != NodeValue::Invalid
                    && !path.0.is_empty()
                    && errors.len() < readings =>
            {
                node.value = NodeValue::Invalid
            }
            _ => {
                errors.extend(found.into_inner());
                return Deserialized {
                    value: None,
                    errors,
                };
            }
        }
    }
}

/// The keys that each struct knows.
#[cfg(test)]
pub(super) fn known_keys<T: for<'de> Deserialize<'de>>(tree: &Node) -> Result<KnownKeys, Error> {
    let known = RefCell::new(KnownKeys::new());
    T::deserialize(NodeDeserializer::new(tree, None, Some(&known))).map_err(Error::outside_in)?;
    Ok(known.into_inner())
}

#[derive(Clone)]
struct NodeDeserializer<'a> {
    node: &'a Node,
    /// Steps from the root, for unknown keys and for `known`.
    path: KeyPath,
    unknown: Option<&'a RefCell<Vec<Error>>>,
    known: Option<&'a RefCell<KnownKeys>>,
}

// === impl NodeDeserializer ===

impl<'a> NodeDeserializer<'a> {
    fn new(
        node: &'a Node,
        unknown: Option<&'a RefCell<Vec<Error>>>,
        known: Option<&'a RefCell<KnownKeys>>,
    ) -> Self {
        Self {
            node,
            path: KeyPath::default(),
            unknown,
            known,
        }
    }

    fn child(&self, node: &'a Node, path: KeyPath) -> Self {
        Self {
            node,
            path,
            ..self.clone()
        }
    }

    fn found(&self) -> Unexpected<'a> {
        match &self.node.value {
            NodeValue::Text(text) | NodeValue::Untyped(text) => Unexpected::Str(text),
            NodeValue::Int(number) => Unexpected::Signed(*number),
            NodeValue::Float(number) => Unexpected::Float(*number),
            NodeValue::Bool(yes) => Unexpected::Bool(*yes),
            NodeValue::Other(words) => Unexpected::Other(words),
            NodeValue::List(_) => Unexpected::Seq,
            NodeValue::Table(_) => Unexpected::Map,
            NodeValue::Invalid => Unexpected::Other("nothing"),
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
                _ if entry.node.value == NodeValue::Invalid => {}
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
            NodeValue::Untyped(text) => match text.trim().parse::<i64>() {
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

impl<'de> de::Deserializer<'de> for NodeDeserializer<'de> {
    type Error = Error;

    numbers!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8 deserialize_i16
        deserialize_i32 deserialize_i64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            NodeValue::Text(text) | NodeValue::Untyped(text) => visitor.visit_borrowed_str(text),
            NodeValue::Int(number) => visitor.visit_i64(*number),
            NodeValue::Float(number) => visitor.visit_f64(*number),
            NodeValue::Bool(yes) => visitor.visit_bool(*yes),
            NodeValue::List(_) => self.deserialize_seq(visitor),
            NodeValue::Table(_) => self.visit_table(None, visitor),
            NodeValue::Invalid => visitor.visit_none(),
            NodeValue::Other(_) => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            NodeValue::Untyped(text) => match text.trim() {
                "true" | "1" => visitor.visit_bool(true),
                "false" | "0" => visitor.visit_bool(false),
                _ => Err(self.wrong(&"true, false, 1 or 0")),
            },
            NodeValue::Int(number @ (0 | 1)) => visitor.visit_bool(*number == 1),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            NodeValue::Untyped(text) => match text.trim().parse() {
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
    reader: NodeDeserializer<'a>,
    left: std::vec::IntoIter<(&'a String, &'a TableEntry)>,
    value: Option<(&'a String, &'a TableEntry)>,
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
                .map_err(|error: Error| error.inside(PathStep::Key(key.clone()))),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, entry)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = self.reader.path.key(key);
        seed.deserialize(self.reader.child(&entry.node, path))
            .map_err(|error| error.inside(PathStep::Key(key.clone())))
    }
}

struct Items<'a> {
    reader: NodeDeserializer<'a>,
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
            if item.value != NodeValue::Invalid {
                let path = self.reader.path.index(index);
                return seed
                    .deserialize(self.reader.child(item, path))
                    .map(Some)
                    .map_err(|error| error.inside(PathStep::Index(index)));
            }
        }
        Ok(None)
    }
}
