//! What the last process had put in force, so that its successor need not count a revision for the same
//! state: a new revision makes every live connection be decided anew, and the proxy must know it first.

use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::message::ProxyState;
use crate::agent::state;

/// Name of the file in the run folder: it goes with a reboot, as the kernel's maps do.
pub const FILE: &str = "published.json";

/// A state by its hash. Another build may hash otherwise: then there is one revision more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    revision: u32,
    hash: u64,
}

impl Mark {
    /// The mark of a state, under a revision.
    pub fn new(state: &ProxyState, revision: u32) -> Self {
        let mut hasher = DefaultHasher::new();
        let mut message = state.delta(None);
        message.revision = 0;
        hasher.write(&message.encode_to_vec());
        Self { revision, hash: hasher.finish() }
    }
}

/// The file.
#[derive(Clone, Debug, Default)]
pub struct MarkFile(Option<PathBuf>);

impl MarkFile {
    /// In this folder.
    pub fn new(run_dir: &std::path::Path) -> Self {
        Self(Some(run_dir.join(FILE)))
    }

    /// Whether the last process left exactly this.
    pub fn is(&self, mark: Mark) -> bool {
        let left = self.0.as_ref().and_then(|path| state::read::<Mark>(path).ok().flatten());
        left == Some(mark)
    }

    /// Leaves a mark. Without one the next process counts one revision more, no worse.
    pub fn leave(&self, mark: Mark) -> Result<(), state::StateError> {
        self.0.as_ref().map_or(Ok(()), |path| state::write(path, &mark))
    }
}
