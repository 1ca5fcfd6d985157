//! YAML (and JSON, its subset) as Kubernetes manifests use it: a text of several documents, each an
//! untyped value that knows its first line, and the line of any field of it.
//!
//! A text is cut at its document markers before it is parsed, so that one broken document does not take its
//! neighbours along. Values mean what they mean to kubectl (YAML 1.1 booleans and octal numbers); unlike
//! there, a key given twice is an error.

mod locate;
mod salvage;

use std::cell::OnceCell;

use serde_json::Value;

pub use locate::Located;
pub use salvage::Header;

/// Largest text that is parsed, in bytes. The API server takes objects of 1.5 MB; a file may hold many.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// Deepest nesting of one document.
const DEPTH_MAX: usize = 64;

/// Most nodes of one document, aliases expanded.
const NODES_MAX: usize = 200_000;

/// One document of a text.
#[derive(Clone, Debug)]
pub struct Document {
    /// Of its first line with content; 1 is the first of the text.
    pub line: u32,
    pub content: Result<Value, Box<SyntaxError>>,
    /// The document's text, to look up positions of fields in.
    text: String,
    /// Lines of the whole text before [`Self::text`].
    offset: u32,
    /// Places of its fields, once someone asked.
    tree: OnceCell<Option<Located>>,
}

/// Text that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {reason}", at.line, at.column)]
pub struct SyntaxError {
    pub at: Position,
    pub reason: String,
    /// What of the object's name could be read before the error.
    pub header: Header,
}

/// A place in a text, both numbers from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// The documents of a text, without those that hold nothing but comments.
pub fn documents(text: &str) -> Vec<Document> {
    cut(text).into_iter().filter_map(|(offset, text)| document(offset, text)).collect()
}

fn document(offset: u32, text: String) -> Option<Document> {
    let first = text.lines().position(has_content)?;
    let content = parse(&text, offset);
    if matches!(content, Ok(Value::Null)) {
        return None;
    }
    let line = offset + u32::try_from(first).unwrap_or(u32::MAX - offset) + 1;
    Some(Document { line, content, text, offset, tree: OnceCell::new() })
}

impl Document {
    /// Where the field at `path` (`spec.ingress[0].toPorts`) stands, or the deepest part of the path that
    /// exists. The first question parses the document again.
    pub fn position(&self, path: &str) -> Position {
        let start = Position { line: self.line, column: 1 };
        if path.is_empty() {
            return start;
        }
        let locate = || serde_saphyr::from_str_with_options(&self.text, options()).ok();
        let Some(tree) = self.tree.get_or_init(locate) else { return start };
        match tree.find(path) {
            Some(at) => Position { line: at.line.saturating_add(self.offset), column: at.column },
            None => start,
        }
    }
}

fn parse(text: &str, offset: u32) -> Result<Value, Box<SyntaxError>> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let at = error.location().map_or(Position { line: 1, column: 1 }, |at| Position {
            line: u32::try_from(at.line()).unwrap_or(u32::MAX),
            column: u32::try_from(at.column()).unwrap_or(u32::MAX),
        });
        let at = Position { line: at.line.saturating_add(offset), ..at };
        let message = error.to_string();
        // The place is told separately, in lines of the whole text.
        let reason = message.split(" at line ").next().unwrap_or(&message);
        let reason = reason.split(", set DuplicateKeyPolicy").next().unwrap_or(reason);
        Box::new(SyntaxError { at, reason: reason.to_owned(), header: Header::of(text) })
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX },
    }
}

/// Cuts at `---` and `...` in the first column, which no YAML content may hold (YAML 1.2.2, 9.1.2), and
/// returns each part with the number of lines before it. Blanks out directives (`%YAML`): without their
/// document marker they would not parse.
fn cut(text: &str) -> Vec<(u32, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = vec![(0, String::new())];
    // Whether the current part has no content yet, so that a directive may stand there.
    let mut at_start = true;
    for (number, line) in (0u32..).zip(text.split_inclusive('\n')) {
        let rest = line.get(3..).unwrap_or_default();
        let ends = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
        if ends && line.starts_with("---") {
            // What follows on the marker's line belongs to the new document, in its own column.
            parts.push((number, format!("   {rest}")));
            at_start = !has_content(rest);
        } else if ends && line.starts_with("...") {
            parts.push((number, String::from("\n")));
            at_start = true;
        } else if let Some((_, part)) = parts.last_mut() {
            let directive = at_start && line.starts_with('%');
            at_start &= directive || !has_content(line);
            part.push_str(if directive { "\n" } else { line });
        }
    }
    parts
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests;
