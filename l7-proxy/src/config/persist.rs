//! The last acknowledged configuration on disk, so that a restarted proxy serves without the agent.
//!
//! One file: a magic line, then the full update and the deltas after it as they came, each behind its
//! length (big-endian u32). A torn tail is a delta that was never acknowledged, and is ignored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::{Config, ConfigError};
use crate::wire::{ConfigUpdate, FRAME_MAX};

/// Name within the state directory.
pub const FILE_NAME: &str = "config.bin";
const MAGIC: &[u8; 16] = b"heddle config 1\n";
/// Deltas are merged into a new full update when they are larger than it, and than this many bytes.
const COMPACT_MIN: u64 = 1 << 20;

/// Why the file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is not a configuration of this version")]
    Format(PathBuf),
    #[error("{path}: {source}")]
    Config { path: PathBuf, source: ConfigError },
}

/// The file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: Option<File>,
    full_bytes: u64,
    delta_bytes: u64,
}

impl Store {
    /// The store in `state_dir`, which must exist.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE_NAME), file: None, full_bytes: 0, delta_bytes: 0 }
    }

    /// The configuration on disk; `None` if there is none.
    pub fn load(&self) -> Result<Option<Config>, PersistError> {
        let Some(updates) = self.read()? else { return Ok(None) };
        let mut config = Config::default();
        for update in &updates {
            config = config
                .apply(update)
                .map_err(|source| PersistError::Config { path: self.path.clone(), source })?;
        }
        Ok((config.revision != 0).then_some(config))
    }

    /// Keeps one more update, already known to be good. When it returns, a restart finds it.
    pub fn save(&mut self, update: &ConfigUpdate) -> Result<(), PersistError> {
        let outcome = match self.file.take() {
            Some(file) if !update.full => self.append(file, update),
            _ if update.full => self.replace(&[update]),
            // The file is not open: whatever is in it is not what this delta builds on.
            _ => Err(io::Error::other("a delta without its base")),
        };
        outcome.map_err(|source| PersistError::Io { path: self.path.clone(), source })?;
        if self.delta_bytes > self.full_bytes.max(COMPACT_MIN) {
            self.compact()?;
        }
        Ok(())
    }

    fn append(&mut self, mut file: File, update: &ConfigUpdate) -> io::Result<()> {
        let frame = frame(update);
        file.write_all(&frame)?;
        file.sync_data()?;
        self.delta_bytes += frame.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Writes a new file beside the old one and renames it, so that one of them is always whole.
    fn replace(&mut self, updates: &[&ConfigUpdate]) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(MAGIC)?;
        self.full_bytes = 0;
        for update in updates {
            let frame = frame(update);
            self.full_bytes += frame.len() as u64;
            file.write_all(&frame)?;
        }
        file.sync_data()?;
        fs::rename(&temporary, &self.path)?;
        self.delta_bytes = 0;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }

    fn compact(&mut self) -> Result<(), PersistError> {
        let Some(updates) = self.read()? else { return Ok(()) };
        let merged = merge(updates);
        self.replace(&[&merged]).map_err(|source| PersistError::Io { path: self.path.clone(), source })
    }

    fn read(&self) -> Result<Option<Vec<ConfigUpdate>>, PersistError> {
        let failed = |source| PersistError::Io { path: self.path.clone(), source };
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let format = || PersistError::Format(self.path.clone());
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(format)?;
        let mut updates = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > FRAME_MAX {
                return Err(format());
            }
            let Some((frame, tail)) = tail.split_at_checked(length) else { break };
            updates.push(ConfigUpdate::decode(frame).map_err(|_| format())?);
            rest = tail;
        }
        Ok(Some(updates))
    }
}

fn frame(update: &ConfigUpdate) -> Vec<u8> {
    let mut frame = Vec::with_capacity(update.encoded_len() + 4);
    frame.extend_from_slice(&(update.encoded_len() as u32).to_be_bytes());
    frame.extend_from_slice(&update.encode_to_vec());
    frame
}

/// One full update that says the same as a full one and the deltas after it.
fn merge(updates: Vec<ConfigUpdate>) -> ConfigUpdate {
    use std::collections::BTreeMap;
    let mut merged = ConfigUpdate { full: true, ..ConfigUpdate::default() };
    let (mut endpoints, mut services) = (BTreeMap::new(), BTreeMap::new());
    let (mut prefixes, mut identities, mut rules) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for update in updates {
        if update.full {
            (endpoints, services, prefixes) = Default::default();
            (identities, rules) = Default::default();
        }
        merged.revision = update.revision;
        merged.node = if update.node.is_empty() { merged.node } else { update.node };
        update.removed_endpoints.iter().for_each(|key| drop(endpoints.remove(key)));
        update.removed_services.iter().for_each(|key| drop(services.remove(key)));
        update.removed_prefixes.iter().for_each(|key| drop(prefixes.remove(key)));
        update.removed_identities.iter().for_each(|key| drop(identities.remove(key)));
        update.removed_rules.iter().for_each(|key| drop(rules.remove(key)));
        endpoints.extend(update.endpoints.into_iter().map(|e| (e.id, e)));
        services.extend(update.services.into_iter().map(|s| (s.key(), s)));
        prefixes.extend(update.ipcache.into_iter().map(|p| (p.prefix.clone(), p)));
        identities.extend(update.identities.into_iter().map(|i| (i.number, i)));
        rules.extend(update.rules.into_iter().map(|r| (r.number, r)));
    }
    merged.endpoints = endpoints.into_values().collect();
    merged.services = services.into_values().collect();
    merged.ipcache = prefixes.into_values().collect();
    merged.identities = identities.into_values().collect();
    merged.rules = rules.into_values().collect();
    merged
}
