//! The text of one file into the objects that it claims to hold, each with its place. Lists are taken
//! apart; a document that does not parse is an entry like any other, known by what could be read of it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::decode::{self, Decoded};
use super::object::{Kind, Object, ObjectKey};
use super::problem::{Fault, PlacedFault};
use crate::yaml::{self, Document, Header, Position};

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub entries: Vec<Entry>,
    /// What concerns the file as a whole, or objects that cannot be named.
    pub faults: Vec<PlacedFault>,
    /// Objects that are not ours.
    pub ignored: Vec<Ignored>,
    /// Some part could not be read and may hold any of the objects that the file held before.
    pub incomplete: bool,
}

/// One object as it was written.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: ObjectKey,
    pub at: Position,
    pub manifest: Arc<Value>,
    pub verdict: Verdict,
}

/// Whether it is valid.
#[derive(Clone, Debug)]
pub enum Verdict {
    Valid {
        object: Object,
        warnings: Vec<PlacedFault>,
    },
    Refused {
        fault: PlacedFault,
        /// What a policy does that was never valid.
        fallback: Option<Object>,
    },
}

/// An object of a kind that is not read.
#[derive(Clone, Debug)]
pub struct Ignored {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub fault: PlacedFault,
}

impl Contents {
    /// Reads a file's text. `path` is used in names only.
    pub fn read(path: &Path, text: &str) -> Self {
        let mut contents = Self::default();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        for document in yaml::documents(text) {
            match &document.content {
                Ok(value) => contents.add(&document, value, "", &file),
                Err(error) => contents.add_broken(error, document.line, &file),
            }
        }
        contents
    }

    /// One object that stands in no file.
    pub fn of_object(manifest: Arc<Value>) -> Self {
        let mut contents = Self::default();
        let placed = |fault| PlacedFault { at: Position::default(), fault };
        let (key, verdict) = match decode::decode(&manifest, "") {
            Decoded::Valid { key, object, warnings } => {
                (key, Verdict::Valid { object, warnings: warnings.into_iter().map(placed).collect() })
            }
            Decoded::Refused { key: Some(key), fault, fallback, .. } => {
                (key, Verdict::Refused { fault: placed(fault), fallback })
            }
            Decoded::Refused { key: None, fault, .. } => {
                contents.faults.push(placed(fault));
                return contents;
            }
            Decoded::Ignored { .. } => return contents,
        };
        contents.entries.push(Entry { key, at: Position::default(), manifest, verdict });
        contents
    }

    /// A file that could not be read at all.
    pub fn unreadable(reason: impl Into<String>) -> Self {
        let fault = PlacedFault { at: Position::default(), fault: Fault::new("", reason) };
        Self { faults: vec![fault], incomplete: true, ..Self::default() }
    }

    fn add(&mut self, document: &Document, value: &Value, path: &str, file: &str) {
        if let Some(items) = list_items(value) {
            for (i, item) in items.iter().enumerate() {
                self.add(document, item, &format!("{path}items[{i}]."), file);
            }
            return;
        }
        let at = document.position(path.trim_end_matches('.'));
        let place = format!("{file}:{}", at.line);
        let placed =
            |fault: Fault| PlacedFault { at: document.position(&format!("{path}{}", fault.path)), fault };
        match decode::decode(value, &place) {
            Decoded::Valid { key, object, warnings } => {
                let warnings = warnings.into_iter().map(placed).collect();
                let verdict = Verdict::Valid { object, warnings };
                self.entries.push(Entry { key, at, manifest: Arc::new(value.clone()), verdict });
            }
            Decoded::Refused { key, named, fault, fallback } => {
                self.refused(key, named, at, value, placed(fault), fallback);
            }
            Decoded::Ignored { namespace, name, kind, reason } => {
                let fault = PlacedFault { at, fault: Fault::new("kind", reason) };
                self.ignored.push(Ignored { kind, namespace, name, fault });
            }
        }
    }

    fn refused(
        &mut self,
        key: Option<ObjectKey>,
        named: bool,
        at: Position,
        manifest: &Value,
        fault: PlacedFault,
        fallback: Option<Object>,
    ) {
        self.incomplete |= !named;
        match key {
            Some(key) => {
                let verdict = Verdict::Refused { fault, fallback };
                self.entries.push(Entry { key, at, manifest: Arc::new(manifest.clone()), verdict });
            }
            None => self.faults.push(fault),
        }
    }

    fn add_broken(&mut self, error: &yaml::SyntaxError, line: u32, file: &str) {
        let Header { api_version, kind, namespace, name } = &error.header;
        let at = Position { line, column: 1 };
        let reason = format!("not valid YAML: {}", error.reason);
        let kind = Kind::of(api_version.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or_default());
        let fault = Fault::new("", reason);
        let placed = PlacedFault { at: error.at, fault: fault.clone() };
        match kind {
            Ok(kind) | Err(Some(kind)) => {
                let known = json!({"metadata": {"name": name, "namespace": namespace}});
                let decoded = decode::refused(kind, &known, &format!("{file}:{line}"), fault);
                if let Decoded::Refused { key, named, fallback, .. } = decoded {
                    self.refused(key, named, at, &Value::Null, placed, fallback);
                }
            }
            Err(None) => {
                self.incomplete = true;
                self.faults.push(placed);
            }
        }
    }
}

impl Ignored {
    /// Whether an object of that namespace (empty: cluster-wide) could have become this one.
    pub fn takes_over(&self, namespace: &str) -> bool {
        let own = if self.namespace.is_empty() { "default" } else { &self.namespace };
        namespace.is_empty() || own == namespace
    }

    /// `namespace/name`, as it was written.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

/// The elements of a `kind: List` (or `PodList` and so on).
fn list_items(value: &Value) -> Option<&Vec<Value>> {
    let kind = value.get("kind")?.as_str()?;
    let list = kind == "List" || (kind.ends_with("List") && value.pointer("/metadata/name").is_none());
    if list { value.get("items")?.as_array() } else { None }
}
