//! Sysctls, and their old values, which a file keeps for the end.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::NodeError;

const ROOT: &str = "/proc/sys/net";
const ACCEPT_RA: &str = "accept_ra";

/// Changes sysctls of this network namespace and remembers what they were.
#[derive(Debug)]
pub(super) struct Sysctls {
    /// JSON: path below `/proc/sys/net` -> value before the first change.
    state: PathBuf,
}

impl Sysctls {
    pub(super) fn new(state: PathBuf) -> Self {
        Self { state }
    }

    /// Lets the node forward both families. [`prepare_uplink`](Self::prepare_uplink) goes first.
    pub(super) fn enable_forwarding(&self) -> Result<(), NodeError> {
        self.set(&[("ipv4/ip_forward".into(), "1"), ("ipv6/conf/all/forwarding".into(), "1")])
    }

    /// Prepares a device toward the outside for a node that forwards.
    pub(super) fn prepare_uplink(&self, device: &str) -> Result<(), NodeError> {
        let mut wanted = vec![reverse_path_by_mark(device)];
        let accept_ra = format!("ipv6/conf/{device}/{ACCEPT_RA}");
        // Forwarding ends the learning of default routes from router advertisements, and forgets those
        // learnt, unless this is 2 (Documentation/networking/ip-sysctl.rst).
        if read(&accept_ra)?.as_deref() == Some("1") {
            wanted.push((accept_ra, "2"));
        }
        self.set(&wanted)
    }

    fn set(&self, wanted: &[(String, &str)]) -> Result<(), NodeError> {
        self.remember(wanted.iter().map(|(path, _)| path))?;
        wanted.iter().try_for_each(|(path, value)| write(path, value))
    }

    /// Gives everything its old value; nothing if nothing was changed.
    pub(super) fn restore(&self) -> Result<(), NodeError> {
        let mut old: Vec<(String, String)> = self.load()?.into_iter().collect();
        // The other way round: forwarding ends before accept_ra is as it was.
        old.sort_by_key(|(path, _)| path.ends_with(ACCEPT_RA));
        old.iter().try_for_each(|(path, value)| write(path, value))?;
        match fs::remove_file(&self.state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.state_error("remove")(error)),
            _ => Ok(()),
        }
    }

    fn remember<'a>(&self, paths: impl Iterator<Item = &'a String>) -> Result<(), NodeError> {
        let mut old = self.load()?;
        for path in paths {
            if let Some(value) = read(path)? {
                old.entry(path.clone()).or_insert(value);
            }
        }
        let text = serde_json::to_string(&old).map_err(|error| self.state_error("write")(error.into()))?;
        // In one step: half a file would lose what the values were.
        let fresh = self.state.with_extension("new");
        fs::write(&fresh, text).map_err(self.state_error("write"))?;
        fs::rename(&fresh, &self.state).map_err(self.state_error("write"))
    }

    fn load(&self) -> Result<BTreeMap<String, String>, NodeError> {
        match fs::read_to_string(&self.state) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| self.state_error("read")(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(self.state_error("read")(error)),
        }
    }

    fn state_error(&self, operation: &'static str) -> impl FnOnce(io::Error) -> NodeError {
        let path = self.state.clone();
        move |source| NodeError::State { operation, path, source }
    }
}

/// The check of a forwarded packet's reverse path (rp_filter) looks up the answer's route as if it came in
/// by the packet's way out: rule 98 would refuse that one, unless the lookup carries the packet's mark.
pub(super) fn reverse_path_by_mark(device: &str) -> (String, &'static str) {
    (format!("ipv4/conf/{device}/src_valid_mark"), "1")
}

/// Reads a sysctl below `net`; `None` if there is none (a kernel without IPv6).
pub(super) fn read(path: &str) -> Result<Option<String>, NodeError> {
    let path = Path::new(ROOT).join(path);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NodeError::Sysctl { operation: "read", path, source }),
    }
}

/// Writes a sysctl below `net`, unless it has the value or is not there.
pub(super) fn write(path: &str, value: &str) -> Result<(), NodeError> {
    match read(path)? {
        Some(old) if old != value => {
            let path = Path::new(ROOT).join(path);
            fs::write(&path, value).map_err(|source| NodeError::Sysctl { operation: "write", path, source })
        }
        _ => Ok(()),
    }
}
