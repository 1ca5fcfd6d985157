//! The kernel as the proxy sees it, over the pinned maps.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use abi::{Addr, ConnKey, ListenerSlot, conn_flags, proto};
use ebpf_redirect::ProxyMaps;
use l7_proxy::{ConnectionRecord, Kernel};

/// The maps below one pin root.
#[derive(Debug)]
pub(super) struct PinnedMaps {
    root: PathBuf,
    maps: ProxyMaps,
}

impl PinnedMaps {
    /// Opens the maps; waits for an agent that has not made them yet.
    pub(super) async fn wait(root: &Path, interval: Duration) -> Self {
        let mut told = false;
        loop {
            match ProxyMaps::open(root) {
                Ok(maps) => return Self { root: root.to_owned(), maps },
                Err(error) if !told => {
                    tracing::warn!(%error, "waiting for the agent's maps");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Resolves when the pins are other maps, or gone: the kernel does not see our listeners any more.
    pub(super) async fn replaced(&self, interval: Duration) {
        loop {
            match self.maps.is_current(&self.root) {
                Ok(true) => {}
                Ok(false) => break,
                // Not to know is no reason to end: every connection would.
                Err(error) => tracing::debug!(%error, "cannot look whether the maps were replaced"),
            }
            tokio::time::sleep(interval).await;
        }
        tracing::error!(pins = %self.root.display(), "the maps were replaced");
    }
}

impl Kernel for PinnedMaps {
    fn publish_listener(&self, slot: ListenerSlot, listener: BorrowedFd<'_>) -> io::Result<()> {
        self.maps.publish_listener(slot, listener)
    }

    fn connection(
        &self,
        client: SocketAddr,
        original_destination: SocketAddr,
    ) -> io::Result<Option<ConnectionRecord>> {
        let entry = self.maps.connection(&key(client, original_destination))?;
        // An entry without the flag is of a connection that goes its own way: not ours.
        let redirected = entry.filter(|entry| entry.flags & conn_flags::REDIRECTED != 0);
        Ok(redirected.map(|entry| ConnectionRecord {
            src_identity: entry.src_identity,
            dst_identity: entry.dst_identity,
            src_endpoint: entry.src_endpoint,
            dst_endpoint: entry.dst_endpoint,
            vip: entry.flags & conn_flags::VIP != 0,
            ingress: entry.flags & conn_flags::INGRESS != 0,
            revision: entry.revision,
        }))
    }
}

fn key(client: SocketAddr, destination: SocketAddr) -> ConnKey {
    ConnKey {
        src: addr(client.ip()),
        dst: addr(destination.ip()),
        sport: client.port().to_be(),
        dport: destination.port().to_be(),
        proto: proto::TCP,
        _pad: [0; 3],
    }
}

fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}
