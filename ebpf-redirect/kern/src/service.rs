//! Services at the socket: from the address that an application asks for to a backend, and back.
//!
//! What connects to itself this way (a pod to a service whose only backend it is, a pod to its own
//! address) never leaves its network namespace: no policy sees it.

use abi::{
    Addr, AffinityEntry, AffinityKey, BackendEntry, BackendKey, Config, Counter, Direction, DropReason,
    Event, EventKind, PeerEntry, PeerKey, ServiceEntry, ServiceKey, proto, service_flags,
};
use aya_ebpf::{bindings::bpf_sock_addr, helpers::generated as helpers};
use core::ptr;

use crate::{
    event, flow,
    maps::{AFFINITY, BACKENDS, NETNS, PEERS, SERVICES},
};

/// The hook lets the call go on.
pub const ALLOW: i32 = 1;
/// The hook fails the call, with the error set before it or EPERM.
pub const REFUSE: i32 = 0;

const ECONNREFUSED: i32 = 111;
/// Backends that are looked through for the one a client had, when it is no longer in its slot.
const AFFINITY_SCAN_MAX: u32 = 64;
const SECOND_NS: u64 = 1_000_000_000;

/// What the application wants.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// connect(2), once for a socket.
    Connect,
    /// sendmsg(2) with an address, once for a datagram.
    Send,
}

/// An address and a port (network order).
#[derive(Clone, Copy)]
pub struct SocketAddr {
    pub addr: Addr,
    pub port: u16,
}

impl SocketAddr {
    /// The address argument of a call on an IPv4 socket.
    #[inline(always)]
    pub fn read_v4(ctx: *mut bpf_sock_addr) -> Self {
        unsafe {
            let ip = ptr::read_volatile(&raw const (*ctx).user_ip4);
            let port = ptr::read_volatile(&raw const (*ctx).user_port) as u16;
            Self { addr: Addr([0, 0, Addr::V4_WORD, ip]), port }
        }
    }

    /// The address argument of a call on an IPv6 socket; it may be a mapped one.
    #[inline(always)]
    pub fn read_v6(ctx: *mut bpf_sock_addr) -> Self {
        unsafe {
            let a = ptr::read_volatile(&raw const (*ctx).user_ip6[0]);
            let b = ptr::read_volatile(&raw const (*ctx).user_ip6[1]);
            let c = ptr::read_volatile(&raw const (*ctx).user_ip6[2]);
            let d = ptr::read_volatile(&raw const (*ctx).user_ip6[3]);
            let port = ptr::read_volatile(&raw const (*ctx).user_port) as u16;
            Self { addr: Addr([a, b, c, d]), port }
        }
    }

    /// Replaces the address argument of a call on an IPv4 socket.
    #[inline(always)]
    pub fn write_v4(&self, ctx: *mut bpf_sock_addr) {
        unsafe {
            ptr::write_volatile(&raw mut (*ctx).user_ip4, self.addr.0[3]);
            ptr::write_volatile(&raw mut (*ctx).user_port, self.port as u32);
        }
    }

    /// Replaces the address argument of a call on an IPv6 socket.
    #[inline(always)]
    pub fn write_v6(&self, ctx: *mut bpf_sock_addr) {
        unsafe {
            ptr::write_volatile(&raw mut (*ctx).user_ip6[0], self.addr.0[0]);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[1], self.addr.0[1]);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[2], self.addr.0[2]);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[3], self.addr.0[3]);
            ptr::write_volatile(&raw mut (*ctx).user_port, self.port as u32);
        }
    }
}

/// Result of [`translate`].
pub enum Translation {
    /// Not a service, or one whose VIP the proxy answers.
    Keep,
    To(SocketAddr),
    /// A service without a ready backend: the call fails with ECONNREFUSED.
    Refuse,
}

/// Chooses a backend for `asked`.
#[inline(always)]
pub fn translate(ctx: *mut bpf_sock_addr, asked: SocketAddr, call: Call) -> Translation {
    let proto = unsafe { ptr::read_volatile(&raw const (*ctx).protocol) } as u8;
    let key = ServiceKey { addr: asked.addr, port: asked.port, proto, _pad: 0 };
    let Some(service) = SERVICES.get_ptr(&key) else { return Translation::Keep };
    let service = unsafe { *service };
    let Ok(config) = flow::config() else { return Translation::Keep };
    let netns = unsafe { helpers::bpf_get_netns_cookie(ctx.cast()) };
    let from_node = netns == config.node_netns_cookie;
    // The hooks see every process of the machine: those of the node and of its pods are ours.
    let endpoint = match NETNS.get_ptr(&netns) {
        _ if from_node => 0,
        Some(id) => unsafe { *id },
        None => return Translation::Keep,
    };
    if service.flags & service_flags::KEEP_VIP != 0 && proto == proto::TCP && !from_node {
        return Translation::Keep;
    }
    let Some(backend) = choose(ctx, &service, netns, call) else {
        refused(&key, endpoint, config);
        return Translation::Refuse;
    };
    let cookie = unsafe { helpers::bpf_get_socket_cookie(ctx.cast()) };
    remember(cookie, &backend, &asked);
    event::count(Counter::Translated);
    Translation::To(backend)
}

#[inline(always)]
fn remember(cookie: u64, backend: &SocketAddr, asked: &SocketAddr) {
    let key = PeerKey { cookie, addr: backend.addr, port: backend.port, _pad: [0; 3] };
    let entry = PeerEntry { addr: asked.addr, port: asked.port, _pad: 0 };
    // If it fails the application sees the backend's address: a blemish, not a leak.
    let _ = PEERS.insert(&key, &entry, 0);
}

/// The VIP behind which this socket sees `seen`, if it was translated.
#[inline(always)]
pub fn translated_from(ctx: *mut bpf_sock_addr, seen: SocketAddr) -> Option<SocketAddr> {
    let cookie = unsafe { helpers::bpf_get_socket_cookie(ctx.cast()) };
    let key = PeerKey { cookie, addr: seen.addr, port: seen.port, _pad: [0; 3] };
    let entry = unsafe { &*PEERS.get_ptr(&key)? };
    Some(SocketAddr { addr: entry.addr, port: entry.port })
}

#[inline(always)]
fn choose(ctx: *mut bpf_sock_addr, service: &ServiceEntry, netns: u64, call: Call) -> Option<SocketAddr> {
    if service.count == 0 {
        return None;
    }
    if service.affinity_seconds != 0
        && let Some(backend) = affine(service, netns)
    {
        return Some(backend);
    }
    let random = match call {
        Call::Connect => unsafe { helpers::bpf_get_prandom_u32() },
        // The datagrams of one socket belong together.
        Call::Send => mix(unsafe { helpers::bpf_get_socket_cookie(ctx.cast()) }, service.id),
    };
    let slot = random % service.count;
    // Between the update of a service and that of its backends a slot may be empty; the first is not.
    let (slot, backend) = match backend(service.id, slot) {
        Some(backend) => (slot, backend),
        None => (0, backend(service.id, 0)?),
    };
    if service.affinity_seconds != 0 {
        hold(service, netns, slot, backend);
    }
    Some(SocketAddr { addr: backend.addr, port: backend.port })
}

#[inline(always)]
fn backend(service: u32, slot: u32) -> Option<&'static BackendEntry> {
    let key = BackendKey { service, slot };
    Some(unsafe { &*BACKENDS.get_ptr(&key)? })
}

/// A number that depends on all bits of a socket's cookie (the finalizer of MurmurHash3).
#[inline(always)]
fn mix(cookie: u64, service: u32) -> u32 {
    let mut x = cookie ^ (service as u64) << 32;
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (x ^ x >> 33) as u32
}

/// The backend that this client had last, if the time is not up and it is still ready.
#[inline(never)]
fn affine_slot(service: &ServiceEntry, netns: u64) -> u32 {
    let key = AffinityKey { netns_cookie: netns, service: service.id, _pad: 0 };
    let Some(held) = AFFINITY.get_ptr_mut(&key) else { return u32::MAX };
    let held = unsafe { &mut *held };
    let now_ns = unsafe { helpers::bpf_ktime_get_ns() };
    if now_ns - held.used_ns > service.affinity_seconds as u64 * SECOND_NS {
        return u32::MAX;
    }
    if is_in_slot(service, held, held.slot) {
        held.used_ns = now_ns;
        return held.slot;
    }
    for slot in 0..AFFINITY_SCAN_MAX {
        if is_in_slot(service, held, slot) {
            held.slot = slot;
            held.used_ns = now_ns;
            return slot;
        }
    }
    u32::MAX
}

#[inline(always)]
fn is_in_slot(service: &ServiceEntry, held: &AffinityEntry, slot: u32) -> bool {
    if slot >= service.count {
        return false;
    }
    match backend(service.id, slot) {
        Some(now) => {
            let (a, b) = (&now.addr.0, &held.backend.addr.0);
            now.port == held.backend.port && a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
        }
        None => false,
    }
}

#[inline(always)]
fn affine(service: &ServiceEntry, netns: u64) -> Option<SocketAddr> {
    let slot = affine_slot(service, netns);
    if slot == u32::MAX {
        return None;
    }
    let backend = backend(service.id, slot)?;
    Some(SocketAddr { addr: backend.addr, port: backend.port })
}

#[inline(always)]
fn hold(service: &ServiceEntry, netns: u64, slot: u32, backend: &BackendEntry) {
    let key = AffinityKey { netns_cookie: netns, service: service.id, _pad: 0 };
    let used_ns = unsafe { helpers::bpf_ktime_get_ns() };
    let entry = AffinityEntry { used_ns, backend: *backend, slot };
    // A client that is not remembered gets another backend next time: nothing worse.
    let _ = AFFINITY.insert(&key, &entry, 0);
}

/// Reports a service without backends and sets the error that the application sees. The event has no source
/// address: the socket may have none yet.
#[inline(always)]
fn refused(key: &ServiceKey, endpoint: u32, config: &Config) {
    event::count_drop(DropReason::NoBackend, Direction::Egress);
    // bpf_set_retval: Linux 5.18.
    unsafe { helpers::bpf_set_retval(-ECONNREFUSED) };
    let time_ns = unsafe { helpers::bpf_ktime_get_ns() };
    if !event::take_token(time_ns, config.events_per_second) {
        return event::count(Counter::EventsLeftOut);
    }
    let event = Event {
        time_ns,
        dst: key.addr,
        dport: key.port,
        proto: key.proto,
        src_endpoint: endpoint,
        revision: config.revision,
        kind: EventKind::Drop as u8,
        reason: DropReason::NoBackend as u8,
        direction: Direction::Egress as u8,
        ..Event::default()
    };
    event::send(&event);
}
