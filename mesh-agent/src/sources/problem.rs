//! What is told about objects that are not taken as they were written.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::yaml::Position;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Refused: the newest version is not in force.
    Error,
    /// In force, but perhaps not as it was meant.
    Warning,
}

/// Something about one object or file that a user should mend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub severity: Severity,
    /// Where it was written; empty if not known.
    pub file: PathBuf,
    /// From 1; 0 if the whole file is meant.
    pub line: u32,
    pub column: u32,
    /// `Kind namespace/name`; empty if it could not be read.
    pub object: String,
    /// Field path in the object, may be empty.
    pub path: String,
    pub reason: String,
    /// What is in force instead.
    pub effect: String,
}

impl Problem {
    /// A fault of `object` in `file`; `effect`: what is in force instead.
    pub fn new(severity: Severity, file: &Path, object: &str, fault: &PlacedFault, effect: &str) -> Self {
        Self {
            severity,
            file: file.to_owned(),
            line: fault.at.line,
            column: fault.at.column,
            object: object.to_owned(),
            path: fault.fault.path.clone(),
            reason: fault.fault.reason.clone(),
            effect: effect.to_owned(),
        }
    }

    /// One about a file or folder as a whole; an empty path: about none.
    pub(super) fn about(severity: Severity, file: &Path, reason: &str, effect: &str) -> Self {
        let fault = PlacedFault { at: Position { line: 0, column: 0 }, fault: Fault::new("", reason) };
        Self::new(severity, file, "", &fault, effect)
    }
}

impl Problem {
    /// What [`Display`](fmt::Display) says less the file's path.
    pub fn without_file(&self) -> String {
        let text = self.to_string();
        let place = format!("{}:", self.file.display());
        text.strip_prefix(&place).unwrap_or(&text).trim_start().to_owned()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}:", self.file.display())?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            f.write_str(" ")?;
        }
        for part in [&self.object, &self.path].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.reason)?;
        if self.effect.is_empty() { Ok(()) } else { write!(f, " ({})", self.effect) }
    }
}

/// Where an object was written. Ordered by path, then by the order in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Not seen there, but it was before, and part of the file cannot be read now. Yields to any other.
    pub held: bool,
    /// The file; another source has a name of its own here.
    pub file: Arc<PathBuf>,
    /// Counted over documents and elements of lists.
    pub index: usize,
}

/// A field that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Field path, such as `spec.ports[0].port`; empty for the whole object.
    pub path: String,
    pub reason: String,
}

impl Fault {
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// A fault and where its field stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedFault {
    pub at: Position,
    pub fault: Fault,
}
