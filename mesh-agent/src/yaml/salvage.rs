//! What a broken document says of itself before it breaks: enough to know whose last valid version must stay
//! in force, and which namespace a policy that nobody can read may have been meant for.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::options;

/// The fields that name an object, as far as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

impl Header {
    /// Reads `text` until it breaks.
    pub(super) fn of(text: &str) -> Self {
        let header = RefCell::default();
        // The error is known already; what was seen before it is what we are after.
        let _ = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
            TopLevel { header: &header }.deserialize(deserializer)
        });
        header.into_inner()
    }
}

/// Visits the top level, or `metadata` of it, and notes what it meets as it goes.
struct TopLevel<'a> {
    header: &'a RefCell<Header>,
}

struct Metadata<'a> {
    header: &'a RefCell<Header>,
}

impl<'de> DeserializeSeed<'de> for TopLevel<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "apiVersion" => self.header.borrow_mut().api_version = text(map.next_value()?),
                "kind" => self.header.borrow_mut().kind = text(map.next_value()?),
                "metadata" => map.next_value_seed(Metadata { header: self.header })?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "namespace" => self.header.borrow_mut().namespace = text(map.next_value()?),
                "name" => self.header.borrow_mut().name = text(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

fn text(value: Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
