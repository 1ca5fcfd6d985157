//! Where the [`Snapshot`] comes from: manifests in a folder or a cluster's API server, and the pods that are
//! attached to this node.
//!
//! A file becomes objects ([`file`], [`decode`]), of several versions of an object one is in force
//! ([`store`]), and the objects become the snapshot ([`assemble`]), which is published ([`outlet`]). Only
//! [`directory`] and [`thread`] know that there are files, only [`kubernetes`] that there is an API server.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use k8s_openapi::api::core::v1::Pod;
use policy::Snapshot;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub mod assemble;
mod built_in;
pub mod cluster_ips;
pub mod decode;
pub mod directory;
pub mod endpoints;
pub mod file;
pub mod kubernetes;
mod label_index;
pub mod object;
mod outlet;
pub mod problem;
pub mod registry;
pub mod services;
mod signals;
pub mod store;
mod thread;
pub mod validate;

pub use assemble::Surrounding;
pub use problem::{Problem, Severity};
pub use registry::{Registration, Registry};

use crate::agent::state::StateError;

/// What the source that reads a folder starts from.
#[derive(Debug, Default)]
pub struct Options {
    /// Folder of manifests; `.yaml`, `.yml` and `.json`, subfolders included.
    pub manifests: PathBuf,
    /// Folder for what must survive a restart.
    pub state_dir: PathBuf,
    pub surrounding: Surrounding,
    /// Manifests that come with the program; they yield to the folder's.
    pub built_in: Vec<serde_json::Value>,
    /// The pods that are attached already, so that the first snapshot has them.
    pub attached: Vec<Registration>,
}

/// The state at one time. Published whole: whoever reads it sees one moment.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub snapshot: Arc<Snapshot>,
    /// What is refused, or perhaps not meant as it is written.
    pub problems: Arc<Vec<Problem>>,
    /// Objects whose newest version is refused and whose last valid one is in force, by
    /// `kind/namespace/name`: since when that has been so, RFC 3339.
    pub last_valid: Arc<BTreeMap<String, String>>,
    /// Manifests in force of this node's pods, by `namespace/name`.
    pub pods: Arc<BTreeMap<String, Arc<Pod>>>,
    /// The newest change of the [`Registry`] that the snapshot has.
    pub registered: u64,
}

/// The folder of manifests cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--manifests {folder}: {source}: {}", self.remedy())]
pub struct FolderError {
    folder: PathBuf,
    source: io::Error,
}

impl FolderError {
    fn remedy(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::NotFound => "make the folder, or name the one that holds your YAML",
            io::ErrorKind::NotADirectory => "name the folder that holds the file",
            _ => "it must be readable by root",
        }
    }
}

/// Whether `folder` is one that manifests can be read from.
///
/// # Errors
/// It is not, with the remedy.
pub fn readable(folder: &Path) -> Result<(), FolderError> {
    std::fs::read_dir(folder).map(drop).map_err(|source| FolderError { folder: folder.to_owned(), source })
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error(transparent)]
    Access(#[from] kubernetes::AccessError),
}

/// A running source. Ends when it is dropped.
#[derive(Debug)]
pub struct Sources {
    registry: Registry,
    published: watch::Receiver<Arc<Published>>,
    source: Arc<dyn registry::Wake>,
    thread: Option<JoinHandle<()>>,
    /// What the thread hears from.
    _tasks: JoinSet<()>,
}

impl Sources {
    /// Reads everything once, then watches. Takes as long as the first reading does; what is published when
    /// it returns is complete.
    ///
    /// # Errors
    /// The folder or the state of the last run cannot be read.
    pub fn start(mut options: Options) -> Result<Self, StartError> {
        let signals = Arc::new(signals::Signals::default());
        let registry = Registry::new(signals.clone(), std::mem::take(&mut options.attached));
        let (worker, published) = thread::Worker::start(options, signals.clone(), registry.clone())?;
        let thread = std::thread::Builder::new().name("sources".to_owned()).spawn(|| worker.run());
        let thread = Some(thread.map_err(StartError::Thread)?);
        Ok(Self { registry, published, source: signals, thread, _tasks: JoinSet::new() })
    }

    /// Where attached pods are told to the source.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// The published state, now and from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.source.stop();
        if let Some(thread) = self.thread.take() {
            // It panicked, and said so, if this fails.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
