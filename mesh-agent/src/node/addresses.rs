//! What the node's network has: its addresses, and the devices toward the outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::{StreamExt, TryStreamExt};
use nix::net::if_::if_indextoname;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::{LOOPBACK, NodeError, Plumbing};

/// An address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAddress {
    pub address: IpAddr,
    pub prefix_len: u8,
    /// Index of its device.
    pub ifindex: u32,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    pub ifindex: u32,
    pub name: String,
}

impl Plumbing {
    /// Every address of the node: whoever sends from one of these is the node itself. Loopback addresses
    /// (127.0.0.0/8, `::1`) never leave it; link-local ones are not routed, and each veth has some.
    pub async fn addresses(&self) -> Result<Vec<NodeAddress>, NodeError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NodeError::netlink("list the node's addresses"))?;
        let mut addresses: Vec<NodeAddress> = messages.iter().filter_map(node_address).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }

    /// An address of each family from which the node's own processes speak to pods: one toward the outside if
    /// there is one.
    pub(super) async fn own_sources(&self) -> Result<Vec<IpAddr>, NodeError> {
        let (addresses, devices) = (self.addresses().await?, self.default_devices().await?);
        let outside = |address: &&NodeAddress| devices.iter().any(|device| device.ifindex == address.ifindex);
        let first = |v4: bool| {
            let mut of_family = addresses.iter().filter(|address| address.address.is_ipv4() == v4);
            of_family.clone().find(outside).or_else(|| of_family.next()).map(|address| address.address)
        };
        Ok([first(true), first(false)].into_iter().flatten().collect())
    }

    /// The same without their devices, each once.
    pub async fn own_addresses(&self) -> Result<Vec<IpAddr>, NodeError> {
        let mut addresses: Vec<_> = self.addresses().await?.into_iter().map(|own| own.address).collect();
        addresses.dedup();
        Ok(addresses)
    }

    /// Devices of the default routes of both families: the way to the outside.
    pub async fn default_devices(&self) -> Result<Vec<Device>, NodeError> {
        let mut devices = BTreeMap::new();
        let queries =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for query in queries {
            let routes: Vec<RouteMessage> = self
                .handle
                .route()
                .get(query)
                .execute()
                .try_collect()
                .await
                .map_err(NodeError::netlink("list the routes"))?;
            for ifindex in routes.iter().filter(|route| is_default(route)).flat_map(outgoing) {
                if let Some(name) = if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok()) {
                    devices.insert(ifindex, name);
                }
            }
        }
        devices.remove(&LOOPBACK);
        Ok(devices.into_iter().map(|(ifindex, name)| Device { ifindex, name }).collect())
    }
}

fn node_address(message: &AddressMessage) -> Option<NodeAddress> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link this is our end, and `Address` the other.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    let address = address?;
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    (!address.is_loopback() && !link_local).then_some(NodeAddress {
        address,
        prefix_len: message.header.prefix_len,
        ifindex: message.header.index,
    })
}

fn is_default(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

fn outgoing(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => devices.push(*ifindex),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    devices
}

/// Tells when addresses, devices or routes of the node change. It tells that, not what: read anew.
#[derive(Debug)]
pub struct NetworkChanges {
    changed: tokio::sync::watch::Receiver<()>,
    listener: JoinHandle<()>,
}

impl NetworkChanges {
    /// Starts to listen, in this thread's network namespace.
    pub fn listen() -> Result<Self, NodeError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(NodeError::Socket)?;
        let (sender, changed) = tokio::sync::watch::channel(());
        let listener = tokio::spawn(async move {
            let forward = async {
                // Whatever it is: many messages become one notice.
                while messages.next().await.is_some() {
                    sender.send_replace(());
                }
            };
            tokio::join!(connection, forward);
        });
        Ok(Self { changed, listener })
    }

    /// Returns once something has changed since the last call; never again if the socket broke, in which case
    /// a periodic look has to do. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for NetworkChanges {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
