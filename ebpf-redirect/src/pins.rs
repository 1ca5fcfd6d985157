//! The folder of pins: its layout, who may use what, and the lock that keeps a second agent out.
//!
//! ```text
//! v<ABI>/            root:proxy 0750
//!   maps/            root:proxy 0750   LISTENERS 0660, CONNECTIONS 0640, all others root 0600
//!   programs/        root       0700
//!   links/           root       0700   pod_<ifindex>_in, pod_<ifindex>_out, dev_<ifindex>_in, lo_1_in, netns, cgroup_<program>
//! ```
//! The kernel checks these permissions when a pin is opened, and that is all the proxy's access rests on.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::{OpenError, PinError};
use crate::sys::{self, Access};

/// The folder of pins, locked for this process.
#[derive(Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    /// Held as long as the datapath is open; the kernel frees it when the process dies.
    _lock: Flock<File>,
}

/// Who may open a pinned map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Root,
    /// The group may read.
    GroupRead(u32),
    /// The group may read and write.
    GroupWrite(u32),
}

impl Pins {
    /// Makes the folders and takes the lock.
    pub(crate) fn create(root: &Path, proxy_gid: u32) -> Result<Self, OpenError> {
        make_parents(root)?;
        for (folder, mode, group) in [
            (root.to_owned(), 0o750, proxy_gid),
            (root.join("maps"), 0o750, proxy_gid),
            (root.join("programs"), 0o700, 0),
            (root.join("links"), 0o700, 0),
        ] {
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(pin_error("make folder", &folder)(error).into());
                }
                _ => permit(&folder, mode, group)?,
            }
        }
        let file = File::open(root).map_err(pin_error("open", root))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| OpenError::InUse { path: root.to_owned() })?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        map_path(&self.root, name)
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.root.join("programs").join(name)
    }

    /// Names of all pinned links (and markers of clsact filters).
    pub(crate) fn link_names(&self) -> Result<Vec<String>, PinError> {
        link_names(&self.root)
    }

    /// Sets who may open a pinned map.
    pub(crate) fn share(&self, map: &str, share: Share) -> Result<(), PinError> {
        let (mode, group) = match share {
            Share::Root => (0o600, 0),
            Share::GroupRead(group) => (0o640, group),
            Share::GroupWrite(group) => (0o660, group),
        };
        permit(&self.map(map), mode, group)
    }
}

/// Where map `name` is pinned below `root`.
pub(crate) fn map_path(root: &Path, name: &str) -> PathBuf {
    root.join("maps").join(name)
}

/// Names of all pinned links below `root`.
pub(crate) fn link_names(root: &Path) -> Result<Vec<String>, PinError> {
    let folder = root.join("links");
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|e| e.file_name());
    let names: io::Result<Vec<OsString>> = fs::read_dir(&folder).and_then(|dir| dir.map(name).collect());
    let names = names.map_err(pin_error("list", &folder))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Pins `fd` at `path`, in place of what may be pinned there, with no moment without a pin.
pub(crate) fn replace(fd: BorrowedFd<'_>, path: &Path) -> Result<(), PinError> {
    // Only one agent at a time works here (the lock), so one fixed name is enough.
    let fresh = path.with_file_name("fresh");
    remove(&fresh)?;
    sys::obj_pin(fd, &fresh).map_err(pin_error("pin", &fresh))?;
    fs::rename(&fresh, path).map_err(pin_error("pin", path))
}

/// Removes a pin; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(pin_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Detaches a pinned link and removes the pin; one that is not there is fine.
pub(crate) fn detach(path: &Path) -> Result<(), PinError> {
    if let Ok(link) = sys::obj_get(path, Access::ReadWrite) {
        match sys::link_detach(link.as_fd()) {
            // What it was attached to is gone, or it is no link (the rest of a replacement that failed).
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::EINVAL)) => {}
            other => other.map_err(pin_error("detach", path))?,
        }
    }
    remove(path)
}

/// Removes every pin below `root` (links first: they keep the programs attached), the folder itself and
/// its parents as long as they are empty.
pub(crate) fn remove_all(root: &Path) -> Result<(), PinError> {
    for folder in ["links", "programs", "maps"].map(|name| root.join(name)) {
        match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(pin_error("list", &folder)(error)),
            Ok(entries) => {
                for entry in entries {
                    remove(&entry.map_err(pin_error("list", &folder))?.path())?;
                }
            }
        }
        fs::remove_dir(&folder).map_err(pin_error("remove", &folder))?;
    }
    match fs::remove_dir(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(pin_error("remove", root)(error));
        }
        _ => {}
    }
    for parent in root.ancestors().skip(1).take_while(|path| is_bpffs(path)) {
        // Stops at the first that others still use, and at the mount point itself.
        if fs::remove_dir(parent).is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether an existing `path` is on a BPF file system.
pub(crate) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

pub(crate) fn pin_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError { operation, path, source }
}

/// Makes the folders above `root` and lets everyone search (not list) them: the proxy has to pass.
fn make_parents(root: &Path) -> Result<(), OpenError> {
    let exists = root.ancestors().find(|path| path.exists());
    if !exists.is_some_and(is_bpffs) {
        return Err(OpenError::NoBpffs { path: root.to_owned() });
    }
    let mut parents: Vec<&Path> =
        root.ancestors().skip(1).take_while(|path| !path.exists() || is_bpffs(path)).collect();
    parents.reverse();
    for parent in parents {
        match fs::create_dir(parent) {
            Ok(()) => permit(parent, 0o711, 0)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => let_search(parent)?,
            Err(error) => return Err(pin_error("make folder", parent)(error).into()),
        }
    }
    Ok(())
}

/// Some distributions mount the BPF file system with mode 0700.
fn let_search(folder: &Path) -> Result<(), PinError> {
    let mode = fs::metadata(folder).map_err(pin_error("look at", folder))?.permissions().mode();
    if mode & 0o001 == 0 {
        tracing::info!(folder = %folder.display(), "letting everyone search this folder: the proxy has to pass");
        let wanted = Permissions::from_mode((mode & 0o7777) | 0o011);
        fs::set_permissions(folder, wanted).map_err(pin_error("change the mode of", folder))?;
    }
    Ok(())
}

fn permit(path: &Path, mode: u32, group: u32) -> Result<(), PinError> {
    chown(path, Some(0), Some(group)).map_err(pin_error("change the owner of", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(pin_error("change the mode of", path))
}
