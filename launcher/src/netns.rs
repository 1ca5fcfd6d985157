//! Named network namespaces, as `ip netns` makes them: a file with the namespace mounted on it.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Makes an empty namespace. The file must not exist.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::options().write(true).create_new(true).open(path)?;
    // The thread takes its namespace along when it ends; the mount keeps it.
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let none: Option<&str> = None;
                mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)
            })
            .join()
    });
    let outcome = match made {
        Ok(outcome) => outcome.map_err(io::Error::from),
        Err(panic) => std::panic::resume_unwind(panic),
    };
    if outcome.is_err() {
        fs::remove_file(path).ok();
    }
    outcome
}

/// Removes the name; the namespace goes with its last process. One that is not there is removed already.
pub(crate) fn delete(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    match umount2(path, MntFlags::MNT_DETACH) {
        // A plain file: its namespace was never mounted.
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
