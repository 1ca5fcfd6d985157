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

    /// Lets the node forward both families. `uplinks` keep learning their default route from router
    /// advertisements, which Linux otherwise ends with forwarding (accept_ra=2,
    /// Documentation/networking/ip-sysctl.rst).
    pub(super) fn enable_forwarding<'a>(
        &self,
        uplinks: impl Iterator<Item = &'a str>,
    ) -> Result<(), NodeError> {
        // In this order: forwarding of IPv6 forgets the default routes of devices without accept_ra=2.
        let mut wanted = Vec::new();
        for uplink in uplinks {
            let path = format!("ipv6/conf/{uplink}/{ACCEPT_RA}");
            if read(&path)?.as_deref() == Some("1") {
                wanted.push((path, "2"));
            }
        }
        wanted.push(("ipv4/ip_forward".into(), "1"));
        wanted.push(("ipv6/conf/all/forwarding".into(), "1"));
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
