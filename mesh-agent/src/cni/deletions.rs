//! DEL while the agent is away: the plugin leaves a file per attachment, the agent releases them later.
//!
//! The file's name is the attachment, so writing it twice is harmless. The agent must look at its start
//! (before it serves ADD) and every few seconds, since a DEL may also have met an agent that did not answer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::wire::Attachment;

/// Name of the folder below the instance's run directory.
pub(super) const DIR: &str = "cni-del";
/// Files read at a time; what is beyond waits for the next look.
const MAX_PENDING: usize = 4096;

/// A deletion left by the plugin.
#[derive(Debug)]
pub struct PendingDeletion {
    pub attachment: Attachment,
    path: PathBuf,
}

impl PendingDeletion {
    /// Forgets the deletion. Call it after the attachment has been released.
    pub fn done(self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Deletions waiting in `run_dir/cni-del`, oldest name first, at most 4096 a call. A missing folder is none;
/// files that do not parse are reported by their path and left alone.
pub fn pending_deletions(run_dir: &Path) -> io::Result<(Vec<PendingDeletion>, Vec<PathBuf>)> {
    let (mut pending, mut unreadable) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(run_dir.join(DIR)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((pending, unreadable)),
        Err(e) => return Err(e),
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    for path in paths.into_iter().take(MAX_PENDING) {
        let attachment = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            // An ADD for the same attachment took it away meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => None,
        };
        match attachment {
            Some(attachment) => pending.push(PendingDeletion { attachment, path }),
            None => unreadable.push(path),
        }
    }
    Ok((pending, unreadable))
}

/// Leaves a deletion for the agent. Atomic: a reader sees the whole file or none.
pub(super) fn queue(run_dir: &Path, attachment: &Attachment) -> io::Result<()> {
    let dir = run_dir.join(DIR);
    fs::create_dir_all(&dir)?;
    let temporary = dir.join(format!("{}.tmp", file_stem(attachment)));
    fs::write(&temporary, serde_json::to_vec(attachment)?)?;
    fs::rename(&temporary, dir.join(format!("{}.json", file_stem(attachment))))
}

/// Takes back a deletion that a new ADD of the same attachment makes wrong.
pub(super) fn withdraw(run_dir: &Path, attachment: &Attachment) {
    let path = run_dir.join(DIR).join(format!("{}.json", file_stem(attachment)));
    PendingDeletion { attachment: attachment.clone(), path }.done().ok();
}

/// Both parts were validated: no slash, and not a dot in front.
fn file_stem(attachment: &Attachment) -> String {
    format!("{}_{}", attachment.container_id, attachment.ifname)
}
