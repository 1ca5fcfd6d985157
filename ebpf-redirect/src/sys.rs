//! The `bpf(2)` system call and its neighbours, as far as this crate needs more than aya offers: links that
//! are updated in place (aya does so for tcx only), pins opened read-only, map elements in batches.
//!
//! The crate's other `unsafe` is in `map.rs`, where the sizes of keys and values are known.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Commands of `bpf(2)` (linux/bpf.h, `enum bpf_cmd`).
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    MapFdById = 14,
    InfoByFd = 15,
    ProgQuery = 16,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// Attachment points (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    Connect4 = 10,
    Connect6 = 11,
    SendMsg4 = 14,
    SendMsg6 = 15,
    RecvMsg4 = 19,
    RecvMsg6 = 20,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    SkLookup = 36,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// How a pin is opened; decides which file permission the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Access {
    ReadWrite = 0,
    /// `BPF_F_RDONLY`
    ReadOnly = 1 << 3,
}

/// `BPF_F_BEFORE`: ahead of every other tcx program of the device.
const BPF_F_BEFORE: u32 = 1 << 3;
/// `SO_NETNS_COOKIE` (asm-generic/socket.h), since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Runs one command of `bpf(2)`.
///
/// # Safety
/// `attr` must be the prefix of `union bpf_attr` that `command` reads, and the pointers and lengths in it
/// must be valid for what the kernel reads and writes through them. Bytes of the union behind `attr` count
/// as zero to the kernel.
pub(crate) unsafe fn bpf<T>(command: Command, attr: &mut T) -> io::Result<i64> {
    // SAFETY: the caller's promise; the size given is the size of what `attr` points to.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, std::ptr::from_mut(attr), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Like [`bpf`], for commands that return a descriptor.
///
/// # Safety
/// As for [`bpf`]; `command` must be one that returns a new descriptor.
pub(crate) unsafe fn bpf_fd<T>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr)? };
    let fd = i32::try_from(fd).map_err(|_| io::Error::other("descriptor out of range"))?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec, as all bpf descriptors are).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct ObjAttr {
    path: u64,
    fd: u32,
    file_flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))
}

/// Opens a pin.
pub(crate) fn obj_get(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { path: path.as_ptr() as u64, fd: 0, file_flags: access as u32 };
    // SAFETY: `path` is a C string that lives across the call.
    unsafe { bpf_fd(Command::ObjGet, &mut attr) }
}

/// Pins a map, program or link.
pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { path: path.as_ptr() as u64, fd: fd.as_raw_fd().cast_unsigned(), file_flags: 0 };
    // SAFETY: `path` is a C string that lives across the call.
    unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// Fills `T`, the beginning of a `struct bpf_*_info`.
///
/// # Safety
/// `T` must be `repr(C)`, made of integers, and the beginning of the info struct of what `fd` is.
unsafe fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut out = T::default();
    let mut attr = InfoAttr {
        fd: fd.as_raw_fd().cast_unsigned(),
        len: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut out) as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes to `out`, and any bytes are a valid `T`.
    unsafe { bpf(Command::InfoByFd, &mut attr) }?;
    Ok(out)
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) map_flags: u32,
}

/// What the kernel says of a map.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    // SAFETY: MapInfo is the beginning of struct bpf_map_info.
    unsafe { info(fd) }
}

/// The beginning of `struct bpf_link_info`; the union holds `{u32 ifindex, u32 type}` for tcx,
/// `{u32 inode, u32 type}` for a network namespace, `{u64 id, u32 type}` for a cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    target: [u32; 4],
}

const LINK_CGROUP: u32 = 3;
const LINK_NETNS: u32 = 5;
const LINK_TCX: u32 = 11;

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Index of a device; 0 in a link whose device is gone.
    Device(u32),
    /// Inode number of a network namespace; 0 in a link whose namespace is gone.
    Netns(u32),
    /// Id of a cgroup (the inode number of its folder); 0 in a link whose cgroup is gone.
    Cgroup(u64),
}

impl Target {
    /// Whether what it was attached to no longer exists.
    pub(crate) fn is_gone(self) -> bool {
        matches!(self, Self::Device(0) | Self::Netns(0) | Self::Cgroup(0))
    }
}

/// What the link behind `fd` is attached to.
pub(crate) fn link_target(fd: BorrowedFd<'_>) -> io::Result<Target> {
    // SAFETY: LinkInfo is the beginning of struct bpf_link_info.
    let info: LinkInfo = unsafe { info(fd)? };
    let [first, second, ..] = info.target;
    match info.kind {
        LINK_TCX => Ok(Target::Device(first)),
        LINK_NETNS => Ok(Target::Netns(first)),
        // The u64 lies in memory order over two words.
        LINK_CGROUP => {
            let [a, b, c, d] = first.to_ne_bytes();
            let [e, f, g, h] = second.to_ne_bytes();
            Ok(Target::Cgroup(u64::from_ne_bytes([a, b, c, d, e, f, g, h])))
        }
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("link of unexpected type {other}"))),
    }
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    /// For tcx `relative_fd` (0 with BPF_F_BEFORE: before all others) and `expected_revision`.
    rest: [u64; 2],
}

/// Attaches a program to a device (tcx), in front of other programs.
pub(crate) fn link_device(program: BorrowedFd<'_>, ifindex: u32, at: AttachType) -> io::Result<OwnedFd> {
    link_create(program, ifindex, at, BPF_F_BEFORE)
}

/// Attaches a program to an open cgroup or network namespace.
pub(crate) fn link_file(program: BorrowedFd<'_>, to: BorrowedFd<'_>, at: AttachType) -> io::Result<OwnedFd> {
    link_create(program, to.as_raw_fd().cast_unsigned(), at, 0)
}

fn link_create(program: BorrowedFd<'_>, target: u32, at: AttachType, flags: u32) -> io::Result<OwnedFd> {
    let prog_fd = program.as_raw_fd().cast_unsigned();
    let mut attr = LinkCreateAttr { prog_fd, target, attach_type: at as u32, flags, rest: [0; 2] };
    // SAFETY: no pointers in it.
    unsafe { bpf_fd(Command::LinkCreate, &mut attr) }
}

#[repr(C)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    _pad: u32,
    prog_attach_flags: u64,
}

/// Whether this kernel knows tcx (Linux 6.6): asks what is attached to the loopback device.
pub(crate) fn has_tcx() -> bool {
    const LOOPBACK: u32 = 1;
    let mut attr = QueryAttr {
        target: LOOPBACK,
        attach_type: AttachType::TcxIngress as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: 0,
        prog_count: 0,
        _pad: 0,
        prog_attach_flags: 0,
    };
    // SAFETY: no pointers in it; a count of 0 asks for the number only.
    unsafe { bpf(Command::ProgQuery, &mut attr) }.is_ok()
}

#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link; no packet sees neither of them.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: no pointers in it.
    unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
}

/// Takes a link's program off at once. (With its last pin removed it goes as well, but some time later.)
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd().cast_unsigned();
    // SAFETY: {link_fd}; no pointers.
    unsafe { bpf(Command::LinkDetach, &mut attr) }.map(drop)
}

/// `bpf_get_netns_cookie` of the network namespace of this thread.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes `len` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// The clock of `bpf_ktime_get_ns`, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec. CLOCK_MONOTONIC cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
