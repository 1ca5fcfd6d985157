//! What this kernel and process can do, found out before anything is loaded, so that what is missing is
//! named in one sentence instead of by an errno.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::OpenError;

/// Oldest kernel that Heddle supports.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// Whether this process and kernel can load the datapath.
///
/// # Errors
/// The first thing that is missing, with its remedy.
pub fn prerequisites() -> Result<(), OpenError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    // A release that cannot be read as a version is not a reason to refuse.
    if version(release).is_some_and(|version| version < KERNEL_MIN) {
        return Err(OpenError::KernelTooOld { found: release.to_owned() });
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = effective_capabilities(&status);
    match (capabilities & (1 << CAP_SYS_ADMIN) != 0, capabilities & (1 << CAP_NET_ADMIN) != 0) {
        (true, true) => {}
        (false, true) => return Err(OpenError::NotPrivileged { missing: "CAP_SYS_ADMIN" }),
        (true, false) => return Err(OpenError::NotPrivileged { missing: "CAP_NET_ADMIN" }),
        (false, false) => return Err(OpenError::NotPrivileged { missing: "root" }),
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(OpenError::NoBtf);
    }
    Ok(())
}

/// Whether an existing folder is a cgroup v2.
pub fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (release, expected) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("6.1.0-13-amd64", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("6.12-rc1", Some((6, 12))),
            ("strange", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn capabilities() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert_eq!(effective_capabilities("CapEff:\t0000000000000000\n"), 0);
        assert_eq!(effective_capabilities(""), 0);
    }
}
