//! The shape of a document with the place of each key and value, to turn a field path into a line.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::Position;

/// A value's place and what is inside.
#[derive(Clone, Debug)]
pub struct Located {
    at: Position,
    inside: Inside,
}

#[derive(Clone, Debug)]
enum Inside {
    Scalar,
    Map(Vec<(String, Position, Located)>),
    Seq(Vec<Located>),
}

impl Located {
    /// The place of `path`, or of the deepest part of it that exists; `None` if not even its first part
    /// does. A key's place is where the key stands, an element's where its value starts.
    ///
    /// A key may stand in brackets and quotes (`labels["a.b/c"]`) or without, also one with dots in it
    /// (`labels.a.b/c`): the longest key that fits is taken.
    pub fn find(&self, path: &str) -> Option<Position> {
        let path = path.trim_start_matches('.');
        match &self.inside {
            Inside::Scalar => None,
            Inside::Seq(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some(item.find(rest).unwrap_or(item.at))
            }
            Inside::Map(entries) => {
                let fits = |key: &str| {
                    let quoted = path.strip_prefix("[\"").and_then(|path| path.strip_prefix(key));
                    if let Some(rest) = quoted.and_then(|rest| rest.strip_prefix("\"]")) {
                        return Some(rest);
                    }
                    let rest = path.strip_prefix(key)?;
                    (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
                };
                let longest = entries
                    .iter()
                    .filter_map(|(key, at, value)| fits(key).map(|rest| (rest, at, value)))
                    .min_by_key(|(rest, ..)| rest.len());
                let (rest, at, value) = longest?;
                Some(value.find(rest).unwrap_or(*at))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Inside>::deserialize(deserializer)?;
        Ok(Self { at: position(spanned.referenced), inside: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Inside {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InsideVisitor)
    }
}

struct InsideVisitor;

impl<'de> Visitor<'de> for InsideVisitor {
    type Value = Inside;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Inside, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push((key.value, position(key.referenced), map.next_value()?));
        }
        Ok(Inside::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Inside, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Inside::Seq(items))
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, inner: D) -> Result<Inside, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }

    fn visit_none<E>(self) -> Result<Inside, E> {
        Ok(Inside::Scalar)
    }
}

fn position(at: Location) -> Position {
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: narrow(at.line()), column: narrow(at.column()) }
}
