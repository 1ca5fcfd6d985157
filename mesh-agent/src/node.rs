//! The node's network plumbing: rules and routes that steer marked packets, protection against packets that
//! no program has decided, forwarding, masquerading, and the host's end of a pod's veth.
//!
//! Everything is idempotent, tagged as ours, and taken away again by [`Plumbing::tear_down`]. Acts on the
//! network namespace in which [`Plumbing::open`] was called. Knows nothing of policy or of eBPF programs, only
//! of their marks.

mod addresses;
mod host;
mod links;
mod masquerade;
mod rules;
mod sysctl;
#[cfg(test)]
mod tests;
mod veth;

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use tokio::task::JoinHandle;

pub use addresses::{Device, NetworkChanges, NodeAddress};
pub use host::{HostError, ensure_bpffs, make_cgroup, remove_cgroup};
pub use links::{LinkMark, MarkedLink};
pub use veth::{GATEWAY_V4, GATEWAY_V6};

/// Index of the loopback device, in every network namespace.
const LOOPBACK: u32 = 1;
/// Marks rules and routes as ours (`ip rule`, `ip route` show it as `proto 72`): `H`. Nothing else on a
/// common system uses the number (/etc/iproute2/rt_protos).
const ROUTE_PROTOCOL: u8 = 72;

/// What the node's network shall look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// Ranges from which this node's pods have their addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether pods reach the world under the node's address.
    pub masquerade: bool,
    /// Destinations that see a pod's own address: the pod ranges of all nodes (this one's are always so).
    pub not_masqueraded: Vec<IpNet>,
    /// Whether policy decides what the node's own processes send to its pods.
    pub police_node: bool,
}

/// What went wrong, and with what.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    #[error("cannot {operation}: {source}")]
    Netlink { operation: String, source: rtnetlink::Error },
    #[error("cannot {operation} sysctl {path}: {source}")]
    Sysctl { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {operation} {path}: {source}")]
    State { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "masquerading needs the program nft, which is not on PATH: install nftables, or turn masquerading off"
    )]
    NftMissing,
    #[error("nft refused the masquerading table: {0}; is the kernel module nf_tables there?")]
    Nft(String),
}

impl NodeError {
    fn netlink(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Netlink { operation, source }
    }
}

/// The node's network plumbing.
#[derive(Debug)]
pub struct Plumbing {
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
    sysctls: sysctl::Sysctls,
}

impl Plumbing {
    /// Opens it; changes nothing yet. `state` is a file that keeps the sysctls' old values until
    /// [`tear_down`](Self::tear_down); it has to survive the agent, not a reboot.
    pub fn open(state: PathBuf) -> Result<Self, NodeError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NodeError::Socket)?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, connection, sysctls: sysctl::Sysctls::new(state) })
    }

    /// Brings the node to `config`, from nothing or from what an earlier agent (with other ranges, too) left.
    pub async fn set_up(&self, config: &NodeConfig) -> Result<(), NodeError> {
        self.up(LOOPBACK).await?;
        // The protection comes before forwarding: there is no moment in which undecided packets pass.
        rules::sync(&self.handle, &rules::wanted(&config.pod_cidrs, config.police_node)).await?;
        let sources = if config.police_node { self.own_sources().await? } else { Vec::new() };
        rules::add_local_routes(&self.handle, &sources).await?;
        if config.masquerade {
            masquerade::install(config).await?;
        } else {
            masquerade::remove().await?;
        }
        for device in self.default_devices().await? {
            self.sysctls.prepare_uplink(&device.name)?;
        }
        self.sysctls.enable_forwarding()
    }

    /// Prepares a device that brings packets for pods from outside. [`set_up`](Self::set_up) does it for those
    /// of the default routes.
    pub fn prepare_uplink(&self, device: &Device) -> Result<(), NodeError> {
        self.sysctls.prepare_uplink(&device.name)
    }

    /// Takes everything away, whatever of it is there, and gives the sysctls their old values.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn tear_down(&self) -> Result<(), NodeError> {
        // Forwarding ends before the protection does.
        let sysctls = self.sysctls.restore();
        let table = masquerade::remove().await;
        let routes = rules::remove_local_routes(&self.handle).await;
        let rules = rules::sync(&self.handle, &[]).await;
        sysctls.and(table).and(routes).and(rules)
    }

    async fn up(&self, ifindex: u32) -> Result<(), NodeError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        let request = self.handle.link().set(message).execute();
        request.await.map_err(NodeError::netlink(format!("set device {ifindex} up")))
    }
}

impl Drop for Plumbing {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
