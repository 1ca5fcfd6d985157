//! Names of what belongs to a pod on the node.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest file name that we make of a pod's name; longer ones are cut and get a hash.
const FILE_NAME_MAX: usize = 180;

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PodKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl PodKey {
    /// `namespace_name`, which no other pod has: neither part can hold an underscore.
    pub(crate) fn file_name(&self) -> String {
        let full = format!("{}_{}", self.namespace, self.name);
        if full.len() <= FILE_NAME_MAX {
            return full;
        }
        let mut hasher = DefaultHasher::new();
        full.hash(&mut hasher);
        format!("{}-{:016x}", &full[..FILE_NAME_MAX - 17], hasher.finish())
    }

    /// File of the pod's network namespace, where `ip netns` shows it too.
    pub(crate) fn netns(&self, instance: &str) -> PathBuf {
        Path::new("/run/netns").join(format!("hdl-{instance}-{}", self.file_name()))
    }
}

/// A new random id in 32 hexadecimal digits.
pub(crate) fn random_id() -> std::io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).collect())
}
