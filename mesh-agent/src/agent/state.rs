//! Files that must survive a crash at any moment: written whole, beside the old one, then renamed over it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path}: {source}: the file is damaged; once no pod of this node runs any more, delete it and start again"
    )]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// The content of `path`, `None` if there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Io { path: path.to_owned(), source }),
    };
    let damaged = |source| StateError::Damaged { path: path.to_owned(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Replaces the content of `path`. After `Ok` it is on the disk; after an error the old content stands.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let damaged = |source| StateError::Damaged { path: path.to_owned(), source };
    let bytes = serde_json::to_vec_pretty(value).map_err(damaged)?;
    replace(path, &bytes).map_err(io)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The rename itself is on the disk once its folder is.
    File::open(dir)?.sync_all()
}
