//! The CNI plugin on the node: the program and its configuration in the runtime's folders, put there whole,
//! put back when something overwrites them, and taken away by [`CniFiles::remove`].
//!
//! The configuration comes only once policy is in force: it is what makes a runtime call its node's network
//! ready. It stays when the agent ends, so that ADD fails with a message instead of going to another plugin.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::layout::Instance;

/// Name of the program, which is `type` in the configuration.
const PROGRAM: &str = "heddle";
/// Runtimes take the first configuration by name.
const CONFIGURATION: &str = "05-heddle.conflist";

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum CniFilesError {
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{0} is Cilium's: two such networks on one node would police each other's pods; remove Cilium first"
    )]
    Cilium(PathBuf),
}

/// The two files of one instance.
#[derive(Clone, Debug)]
pub struct CniFiles {
    program: PathBuf,
    configuration: PathBuf,
    content: String,
    /// What the program looked like when we put it there.
    installed: Option<(u64, u64, i64)>,
}

impl CniFiles {
    /// Touches nothing yet.
    pub fn new(bin_dir: &Path, conf_dir: &Path, instance: &Instance) -> Self {
        let list = json!({
            "cniVersion": "1.0.0",
            // Runtimes that know of it take the newest, which has GC and STATUS.
            "cniVersions": ["1.0.0", "1.1.0"],
            "name": "heddle",
            "plugins": [{"type": PROGRAM, "instance": instance.to_string()}],
        });
        Self {
            program: bin_dir.join(PROGRAM),
            configuration: conf_dir.join(CONFIGURATION),
            content: format!("{list:#}\n"),
            installed: None,
        }
    }

    /// Whether another network of our kind is here.
    ///
    /// # Errors
    /// It is.
    pub fn check_alone(&self) -> Result<(), CniFilesError> {
        let cilium = self.configuration.with_file_name("05-cilium.conflist");
        if cilium.exists() { Err(CniFilesError::Cilium(cilium)) } else { Ok(()) }
    }

    /// Puts both in place where they are not as they should be. Returns whether something had to be done.
    pub fn ensure(&mut self, executable: &Path) -> Result<bool, CniFilesError> {
        let now = fs::metadata(&self.program).ok().map(|meta| stamp(&meta));
        let program = now.is_none() || now != self.installed;
        if program {
            let copy = |temporary: &Path| {
                fs::copy(executable, temporary)?;
                fs::set_permissions(temporary, fs::Permissions::from_mode(0o755))
            };
            replace(&self.program, copy)?;
            self.installed = fs::metadata(&self.program).ok().map(|meta| stamp(&meta));
        }
        let same = fs::read_to_string(&self.configuration).is_ok_and(|text| text == self.content);
        if !same {
            replace(&self.configuration, |temporary| fs::write(temporary, &self.content))?;
        }
        Ok(program || !same)
    }

    /// A configuration that runtimes take before ours.
    pub fn hidden_by(&self) -> Option<PathBuf> {
        let folder = fs::read_dir(self.configuration.parent()?).ok()?;
        let names = folder.filter_map(|entry| Some(entry.ok()?.path()));
        let configurations = names.filter(|path| {
            let extension = path.extension().and_then(|e| e.to_str());
            extension.is_some_and(|e| matches!(e, "conf" | "conflist" | "json"))
        });
        configurations.filter(|path| *path < self.configuration).min()
    }

    /// Takes both away; what is not there is gone already.
    pub fn remove(&self) -> Result<(), CniFilesError> {
        // The configuration first: no runtime must look for a program that is gone.
        for path in [&self.configuration, &self.program] {
            match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CniFilesError::Io { operation: "remove", path: path.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Device, inode and time of the last change.
fn stamp(meta: &Metadata) -> (u64, u64, i64) {
    (meta.dev(), meta.ino(), meta.mtime())
}

/// Writes beside a file and renames: whoever opens it finds the old one or the new one, whole.
fn replace(path: &Path, write: impl Fn(&Path) -> io::Result<()>) -> Result<(), CniFilesError> {
    let failed = |operation| {
        let path = path.to_owned();
        move |source| CniFilesError::Io { operation, path, source }
    };
    // Of no extension that a runtime would read.
    let temporary = path.with_extension("heddle-new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    }
    // A leftover may be a program that still runs, which cannot be written to.
    let _ = fs::remove_file(&temporary);
    write(&temporary).map_err(failed("write"))?;
    File::open(&temporary).and_then(|file| file.sync_all()).map_err(failed("write"))?;
    fs::rename(&temporary, path).map_err(failed("replace"))
}

#[cfg(test)]
mod tests;
