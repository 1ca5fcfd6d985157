//! Work inside another network namespace, in a thread that is thrown away afterwards.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::error::{CniError, code};

/// Opens the namespace. A path that does not exist is [`code::UNKNOWN_CONTAINER`], one that is something else
/// [`code::INVALID_ENVIRONMENT`].
pub(super) fn open(path: &Path) -> Result<File, CniError> {
    // Without waiting: a FIFO would have us wait for its writer, for ever.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(|e| {
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        let code = if missing { code::UNKNOWN_CONTAINER } else { code::IO_FAILURE };
        CniError::new(code, format!("opening the network namespace {}", path.display()), e)
    })?;
    let kind = fstatfs(&file).map_err(|e| CniError::io("looking at CNI_NETNS", &e.into()))?.filesystem_type();
    if kind != NSFS_MAGIC {
        let details = format!("CNI_NETNS is {}", path.display());
        return Err(CniError::new(code::INVALID_ENVIRONMENT, "this is no network namespace", details));
    }
    Ok(file)
}

/// Whether this is the namespace that we are in.
pub(super) fn is_own(namespace: &File) -> Result<bool, CniError> {
    let identify = |file: std::io::Result<std::fs::Metadata>| {
        let meta = file.map_err(|e| CniError::io("looking at the network namespaces", &e))?;
        Ok((meta.dev(), meta.ino()))
    };
    Ok(identify(namespace.metadata())? == identify(std::fs::metadata("/proc/thread-self/ns/net"))?)
}

/// Runs a future on a thread of its own inside the namespace. `/proc/sys/net` there is the namespace's too.
pub(super) fn within<T, F, Fut>(namespace: &File, work: F) -> Result<T, CniError>
where
    T: Send,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<T, CniError>>,
{
    let body = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| {
            CniError::new(code::NETWORK_FAILED, "entering the network namespace (are you root?)", e)
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| CniError::io("starting the runtime", &e))?;
        runtime.block_on(work())
    };
    std::thread::scope(|scope| match scope.spawn(body).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Cookie of the thread's network namespace.
pub(super) fn cookie() -> Result<u64, CniError> {
    ebpf_redirect::Datapath::netns_cookie().map_err(|e| CniError::io("reading the namespace's cookie", &e))
}
