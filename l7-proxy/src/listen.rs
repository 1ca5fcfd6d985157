//! The listeners: for each slot of the kernel's map one SO_REUSEPORT group of all workers or, where the
//! kernel cannot hand packets to those, one socket that they share.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::ListenerSlot;
use socket2::{Domain, Protocol, Socket, Type};

use crate::settings::{Bind, Settings, Sharing};

/// Connections that the kernel may keep for a worker that is busy.
const BACKLOG: i32 = 4096;

/// A listening socket and the slot that it belongs to.
#[derive(Debug)]
pub struct Listener {
    pub slot: ListenerSlot,
    pub socket: std::net::TcpListener,
}

/// Why there are no listeners.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// The listeners of each worker. A family that the machine does not have is left out.
pub fn listen(settings: &Settings) -> Result<Vec<Vec<Listener>>, ListenError> {
    let mut workers: Vec<Vec<Listener>> = (0..settings.workers).map(|_| Vec::new()).collect();
    for slot in ListenerSlot::ALL {
        let mut address = wanted(settings, slot);
        if !family_exists(address) {
            tracing::warn!(?slot, "no such address family on this machine");
            continue;
        }
        // Another proxy is still draining on this port: joining its group would give it connections that
        // are ours. The kernel programs do not care for the number.
        if address.port() != 0 && open(address, settings.bind, Use::Probe).is_err() {
            address.set_port(0);
        }
        let mut first: Option<std::net::TcpListener> = None;
        for listeners in &mut workers {
            let failed = |source| ListenError { address, source };
            let socket = match (settings.sharing, &first) {
                (Sharing::PerWorker, _) => open(address, settings.bind, Use::Member),
                (Sharing::Shared, Some(first)) => first.try_clone(),
                (Sharing::Shared, None) => open(address, settings.bind, Use::Alone),
            };
            let socket = socket.map_err(failed)?;
            if settings.sharing == Sharing::Shared && first.is_none() {
                first = Some(socket.try_clone().map_err(failed)?);
            }
            let local = socket.local_addr().map_err(failed)?;
            address.set_port(local.port());
            listeners.push(Listener { slot, socket });
        }
    }
    Ok(workers)
}

fn wanted(settings: &Settings, slot: ListenerSlot) -> SocketAddr {
    let port = match slot {
        ListenerSlot::EgressV4 | ListenerSlot::EgressV6 => settings.egress_port,
        ListenerSlot::IngressV4 | ListenerSlot::IngressV6 => settings.ingress_port,
    };
    let is_v4 = matches!(slot, ListenerSlot::EgressV4 | ListenerSlot::IngressV4);
    let ip: IpAddr = match (settings.bind, is_v4) {
        (Bind::Transparent, true) => Ipv4Addr::UNSPECIFIED.into(),
        (Bind::Transparent, false) => Ipv6Addr::UNSPECIFIED.into(),
        (Bind::Loopback, true) => Ipv4Addr::LOCALHOST.into(),
        (Bind::Loopback, false) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, port)
}

fn family_exists(address: SocketAddr) -> bool {
    let any = SocketAddr::new(address.ip(), 0);
    Socket::new(Domain::for_address(any), Type::STREAM, None)
        .and_then(|socket| socket.bind(&any.into()))
        .is_ok()
}

/// What a socket is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// To see whether anyone has the address: only bound.
    Probe,
    /// To listen in a SO_REUSEPORT group.
    Member,
    /// To listen alone.
    Alone,
}

fn open(address: SocketAddr, bind: Bind, purpose: Use) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if bind == Bind::Transparent {
        // Accepted connections have the original destination as their own address.
        socket.set_ip_transparent_v4(true)?;
        // They inherit the mark, and resets of strays bear it: by it the gate of a pod's veth lets them in.
        socket.set_mark(abi::mark::UPSTREAM)?;
    }
    if purpose == Use::Member {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if purpose != Use::Probe {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}
