//! From root to a user with one capability. All of it happens while the process has one thread: Linux keeps
//! credentials per thread.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use anyhow::{Context, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// IP_TRANSPARENT and SO_MARK need it, and nothing else is needed.
const KEPT: Capability = Capability::CAP_NET_RAW;
/// Makes the proxy's folder and gives it to its user.
pub(super) fn own_folder(folder: &Path, uid: u32, gid: u32) -> anyhow::Result<()> {
    let name = folder.display();
    if !folder.is_dir() {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let made = DirBuilder::new().mode(0o700).create(folder);
        made.with_context(|| format!("cannot make {name}"))?;
    }
    if Uid::effective().is_root() {
        chown(folder, Some(uid), Some(gid)).with_context(|| format!("cannot give {name} to user {uid}"))?;
    }
    Ok(())
}

/// Becomes `uid` and `gid` with [`KEPT`] alone, for ever. A process that is not root must have it already.
pub(super) fn drop_to(uid: u32, gid: u32) -> anyhow::Result<()> {
    if Uid::effective().is_root() {
        ensure!(uid != 0 && gid != 0, "the proxy does not run as root: give another --uid and --gid");
        ensure!(thread_count()? == 1, "privileges can only be dropped before the first thread starts");
        for capability in caps::all() {
            // One that this kernel does not know cannot be dropped, and need not be.
            let known = capability != KEPT && caps::has_cap(None, CapSet::Bounding, capability)?;
            if known {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
        caps::securebits::set_keepcaps(true)?;
        setgroups(&[]).context("cannot leave the supplementary groups")?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setresgid(gid, gid, gid).context("cannot change the group")?;
        setresuid(uid, uid, uid).context("cannot change the user")?;
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    ensure!(permitted.contains(&KEPT), "the proxy needs {KEPT}: start it as root, or grant it");
    let kept = CapsHashSet::from([KEPT]);
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    nix::sys::prctl::set_no_new_privs().context("cannot renounce new privileges")?;
    Ok(())
}

fn thread_count() -> anyhow::Result<usize> {
    Ok(fs::read_dir("/proc/self/task").context("cannot count our threads")?.count())
}
