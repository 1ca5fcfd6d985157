//! How many descriptors (sockets, maps, files) a process of the node may have.

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;

/// A proxied connection takes two descriptors.
const WANTED: u64 = 1 << 20;
/// Fewer than this do not even hold the programs, maps and sockets of a small node.
const NEEDED: u64 = 256;

/// As many descriptors as we are given, at most [`WANTED`]. Children inherit it.
///
/// # Errors
/// There are too few for a node; the sentence names the remedy.
pub fn raise_limit() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if Uid::effective().is_root() && hard < WANTED {
        // A container's root may not raise it; then the hard limit is what there is.
        if setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED).is_ok() {
            return Ok(());
        }
    }
    let limit = affordable(soft, hard)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).context("cannot raise the limit of descriptors")
}

/// The soft limit to set under a hard one that stays.
fn affordable(soft: u64, hard: u64) -> anyhow::Result<u64> {
    let limit = hard.min(WANTED).max(soft);
    ensure!(
        limit >= NEEDED,
        "at most {limit} files may be open at a time, a node needs {NEEDED}: raise the hard limit of \
         descriptors (`ulimit -Hn`, or LimitNOFILE= of a systemd unit)"
    );
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_follows_the_hard_one_and_too_few_are_said() {
        assert_eq!(affordable(1024, 20_000).unwrap(), 20_000);
        assert_eq!(affordable(1024, u64::MAX).unwrap(), WANTED);
        assert_eq!(affordable(32, 256).unwrap(), 256);
        let error = affordable(32, 32).unwrap_err().to_string();
        assert!(error.starts_with("at most 32 files may be open at a time, a node needs 256"), "{error}");
    }
}
