//! Manifests that come with the program, such as the cluster's DNS server. They yield to the user's: an
//! object that a file claims is the file's, and where a file claims the Service none of them is there.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::decode::{self, Decoded};
use super::file::Contents;
use super::object::{Kind, ObjectKey};
use super::store::Store;

/// The manifests, each a file of its own to the store.
#[derive(Debug, Default)]
pub(super) struct BuiltIn {
    all: Vec<Manifest>,
}

#[derive(Debug)]
struct Manifest {
    /// No path of a folder begins like this.
    file: Arc<PathBuf>,
    key: ObjectKey,
    text: String,
    /// Whether the store has it now.
    there: bool,
}

impl BuiltIn {
    /// Takes manifests that decode; others would be an error of this program.
    pub(super) fn new(manifests: &[Value]) -> Self {
        let all = manifests.iter().filter_map(|manifest| match decode::decode(manifest, "") {
            Decoded::Valid { key, .. } => {
                let name = format!("built in: {} {}", key.kind.name(), key.name);
                let file = Arc::new(PathBuf::from(name));
                Some(Manifest { file, key, text: manifest.to_string(), there: false })
            }
            other => {
                debug_assert!(false, "{other:?}");
                None
            }
        });
        Self { all: all.collect() }
    }

    /// Adds and takes away what the files' claims ask for.
    pub(super) fn settle(&mut self, store: &mut Store) {
        let claimed = |m: &Manifest| store.is_claimed_beside(&m.key, &m.file);
        let taken_over = self.all.iter().any(|m| m.key.kind == Kind::Service && claimed(m));
        let wanted: Vec<bool> = self.all.iter().map(|m| !taken_over && !claimed(m)).collect();
        for (manifest, wanted) in self.all.iter_mut().zip(wanted) {
            match (manifest.there, wanted) {
                (false, true) => {
                    store.set_file(&manifest.file, Contents::read(&manifest.file, &manifest.text));
                }
                (true, false) => store.remove_file(&manifest.file),
                _ => {}
            }
            manifest.there = wanted;
        }
    }
}
