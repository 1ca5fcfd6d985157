//! What can go wrong, with the object, the operation and the remedy in each message.

use std::io;
use std::path::PathBuf;

/// Lines of the verifier's log that an error shows: the complaint stands at its end.
pub(crate) const VERIFIER_LOG_LINES: usize = 24;

/// Why the datapath cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "loading eBPF programs needs {missing}: run as root (in a container: privileged, or with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF)"
    )]
    NotPrivileged {
        /// The capabilities that this process lacks.
        missing: &'static str,
    },
    #[error("Linux {found} is too old: Heddle needs 6.1 or newer; boot a newer kernel")]
    KernelTooOld { found: String },
    #[error(
        "the kernel has no type information at /sys/kernel/btf/vmlinux: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (every current distribution's is)"
    )]
    NoBtf,
    #[error("{path} is not on a BPF file system: mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NoBpffs { path: PathBuf },
    #[error("{path} is in use by another agent: stop it first, or choose another --instance")]
    InUse { path: PathBuf },
    #[error("the compiled-in eBPF object cannot be loaded: {reason}")]
    Object {
        /// aya's error with all its causes.
        reason: String,
    },
    #[error(
        "the compiled-in eBPF object has no program `{program}`: it is older than this binary; rebuild it with `cargo xtask bpf`"
    )]
    MissingProgram { program: &'static str },
    #[error("the kernel refused program `{program}`: {source}; the end of the verifier's log:\n{log_tail}")]
    Program { program: &'static str, source: io::Error, log_tail: String },
    #[error("program `{program}`: {reason}")]
    ProgramOther { program: &'static str, reason: String },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A file below the pin root could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}{}", self.remedy())]
pub struct PinError {
    /// What was tried, in words.
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl PinError {
    fn remedy(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::InvalidData => {
                " (pinned by another build; drain the node, stop Heddle and remove the file)"
            }
            io::ErrorKind::PermissionDenied => " (only root and, for two maps, the proxy's group may)",
            io::ErrorKind::NotFound => " (is the agent running?)",
            _ => "",
        }
    }
}

/// Why a program could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(
        "{path} is not a cgroup v2 folder: mount one with `mount -t cgroup2 cgroup2 /sys/fs/cgroup` (hybrid systems have it at /sys/fs/cgroup/unified)"
    )]
    NotCgroup2 { path: PathBuf },
    #[error("cannot open {path}: {source}")]
    Target { path: PathBuf, source: io::Error },
    #[error("device {ifindex} does not exist in this network namespace")]
    NoDevice { ifindex: u32 },
    #[error("cannot attach program `{program}` to {target}: {source}")]
    Link {
        program: &'static str,
        /// The device, cgroup or namespace.
        target: String,
        source: io::Error,
    },
    #[error(
        "cannot attach program `{program}` to device {ifindex} by clsact: {reason}; is the kernel module sch_ingress there?"
    )]
    Clsact { program: &'static str, ifindex: u32, reason: String },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("map {map}: cannot {operation}: {source}")]
    Io {
        map: &'static str,
        /// What was tried, in words.
        operation: &'static str,
        source: io::Error,
    },
    #[error("map {map} is full: {wanted} entries wanted, {limit} are its limit")]
    Full { map: &'static str, wanted: usize, limit: usize },
    #[error("service number {id} belongs to two service ports")]
    DuplicateService { id: u32 },
}

impl MapError {
    pub(crate) fn io(map: &'static str, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { map, operation, source }
    }
}
