//! Devices, addresses, routes and neighbours, by netlink, in the caller's network namespace.
//!
//! The pod's link is point to point: its addresses are /32 and /128, everything goes to a gateway address
//! that exists nowhere, and permanent neighbours on both ends carry the hardware addresses. So neither ARP
//! nor neighbour discovery is needed, and the node has no address that a pod could reach through it.

use std::fmt::{self, Display};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use abi::PORT_RESERVED;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::error::{CniError, code};
use super::wire::Allocation;

/// Hardware address of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mac([u8; 6]);

impl Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A device as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) mac: Mac,
    pub(super) up: bool,
    /// Index of the other end of a veth pair, in its own namespace.
    pub(super) peer: Option<u32>,
}

/// Both ends of a new pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) host_index: u32,
    pub(super) host_mac: Mac,
    pub(super) pod_mac: Mac,
}

/// Makes the pair: one end here, the other at once in the target namespace, both down. A device that has
/// the host end's name already is a leftover (the agent gave the name for this pod) and is replaced.
pub(super) async fn create(allocation: &Allocation, ifname: &str, target: &File) -> Result<(), CniError> {
    let message = || {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(ifname.to_owned())
            .mtu(allocation.mtu)
            .setns_by_fd(target.as_raw_fd())
            .build();
        LinkVeth::new(&allocation.host_ifname, ifname)
            .mtu(allocation.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build()
    };
    let netlink = open()?;
    let failed = |e| failed(format!("making the pair {} - {ifname}", allocation.host_ifname), e);
    match netlink.link().add(message()).execute().await {
        Err(e) if errno(&e) == Some(nix::libc::EEXIST) => {
            delete(&allocation.host_ifname).await?;
            netlink.link().add(message()).execute().await.map_err(failed)
        }
        outcome => outcome.map_err(failed),
    }
}

/// Finishes the host's end: settings, up, the pod's hardware address, a route for each address.
pub(super) async fn set_up_host(allocation: &Allocation, ends: &Ends) -> Result<(), CniError> {
    let name = &allocation.host_ifname;
    // Packets that the kernel programs marked are routed by their mark, also by the reverse path filter.
    for (setting, value) in [("forwarding", "1"), ("src_valid_mark", "1"), ("send_redirects", "0")] {
        sysctl(&format!("ipv4/conf/{name}/{setting}"), value)?;
    }
    let v6 = allocation.addresses.iter().any(|address| address.ip.is_ipv6());
    if v6 {
        for (setting, value) in
            [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"), ("forwarding", "1")]
        {
            sysctl(&format!("ipv6/conf/{name}/{setting}"), value)?;
        }
    }
    let netlink = open()?;
    up(&netlink, ends.host_index).await.map_err(|e| failed(format!("setting {name} up"), e))?;
    for address in &allocation.addresses {
        neighbour(&netlink, ends.host_index, address.ip, ends.pod_mac).await?;
        let prefix = if address.ip.is_ipv4() { 32 } else { 128 };
        let mut route = route(address.ip, prefix, ends.host_index)?;
        if address.ip.is_ipv4() {
            route = route.scope(RouteScope::Link);
        }
        let replaced = netlink.route().add(route.build()).replace().execute().await;
        replaced.map_err(|e| failed(format!("routing {} to {name}", address.ip), e))?;
    }
    Ok(())
}

/// Finishes the pod's end; to be called inside its namespace.
pub(super) async fn set_up_pod(
    allocation: &Allocation,
    index: u32,
    ifname: &str,
    ends: &Ends,
) -> Result<(), CniError> {
    // The proxy binds these ports with the pod's address; the pod's own connections must not take them.
    let reserved = format!("{}-{}", PORT_RESERVED.0, PORT_RESERVED.1);
    sysctl("ipv4/ip_local_reserved_ports", &reserved)?;
    let v6 = allocation.addresses.iter().any(|address| address.ip.is_ipv6());
    if v6 {
        sysctl("ipv6/conf/lo/disable_ipv6", "0")?;
        for (setting, value) in [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")] {
            sysctl(&format!("ipv6/conf/{ifname}/{setting}"), value)?;
        }
    }
    let netlink = open()?;
    let lo = identify("lo").await?;
    up(&netlink, lo.index).await.map_err(|e| failed("setting lo up", e))?;
    for address in &allocation.addresses {
        let prefix = if address.ip.is_ipv4() { 32 } else { 128 };
        let mut request = netlink.address().add(index, address.ip, prefix);
        if address.ip.is_ipv6() {
            // Nobody else is on the link; without this the address would be unusable for a second.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(|e| failed(format!("adding {} to {ifname}", address.ip), e))?;
    }
    up(&netlink, index).await.map_err(|e| failed(format!("setting {ifname} up"), e))?;
    for address in &allocation.addresses {
        neighbour(&netlink, index, address.gateway, ends.host_mac).await?;
        let everything: IpAddr =
            if address.ip.is_ipv4() { [0; 4].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
        // On link: the gateway is in no subnet of the pod's.
        let route = route(everything, 0, index)?
            .gateway(address.gateway)
            .map_err(|e| CniError::new(code::AGENT_REFUSED, "the agent's gateway makes no sense", e))?
            .onlink();
        let added = netlink.route().add(route.build()).execute().await;
        added.map_err(|e| failed(format!("routing through {}", address.gateway), e))?;
    }
    Ok(())
}

/// Whether a device of this name is here.
pub(super) async fn exists(name: &str) -> Result<bool, CniError> {
    Ok(find(name).await?.is_some())
}

/// The device of this name; an error if there is none.
pub(super) async fn identify(name: &str) -> Result<Device, CniError> {
    let device = find(name).await?;
    device.ok_or_else(|| {
        CniError::new(code::NETWORK_FAILED, format!("looking at interface {name}"), "it does not exist")
    })
}

/// The device of this name, if it is here.
pub(super) async fn find(name: &str) -> Result<Option<Device>, CniError> {
    let netlink = open()?;
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.as_ref().map(describe)),
        Err(e) if errno(&e) == Some(nix::libc::ENODEV) => Ok(None),
        Err(e) => Err(failed(format!("looking at interface {name}"), e)),
    }
}

/// Whether the device of this index is here and up.
pub(super) async fn is_up(index: u32) -> Result<bool, CniError> {
    let netlink = open()?;
    let mut links = netlink.link().get().match_index(index).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.as_ref().map(describe).is_some_and(|device| device.up)),
        Err(e) if errno(&e) == Some(nix::libc::ENODEV) => Ok(false),
        Err(e) => Err(failed(format!("looking at interface {index}"), e)),
    }
}

/// Removes a device; one that is not there is removed already.
pub(super) async fn delete(name: &str) -> Result<(), CniError> {
    let Some(device) = find(name).await? else { return Ok(()) };
    match open()?.link().del(device.index).execute().await {
        Err(e) if errno(&e) != Some(nix::libc::ENODEV) => Err(failed(format!("removing {name}"), e)),
        _ => Ok(()),
    }
}

/// Addresses of the device.
pub(super) async fn addresses(index: u32) -> Result<Vec<IpAddr>, CniError> {
    let netlink = open()?;
    let messages = netlink.address().get().set_link_index_filter(index).execute();
    let messages: Vec<_> =
        messages.try_collect().await.map_err(|e| failed(format!("reading addresses of {index}"), e))?;
    let address = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    Ok(messages.iter().filter_map(|message| message.attributes.iter().find_map(address)).collect())
}

/// Whether everything of a family is routed to the device.
pub(super) async fn has_default_route(index: u32, v4: bool) -> Result<bool, CniError> {
    let routes = routes(v4).await?;
    Ok(routes.iter().any(|r| r.header.destination_prefix_length == 0 && goes_to(r, index)))
}

/// Single addresses that are routed to the device.
pub(super) async fn routed_addresses(index: u32) -> Result<Vec<IpAddr>, CniError> {
    let mut addresses = Vec::new();
    for v4 in [true, false] {
        let full = if v4 { 32 } else { 128 };
        for route in routes(v4).await? {
            if route.header.destination_prefix_length != full || !goes_to(&route, index) {
                continue;
            }
            addresses.extend(route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
                _ => None,
            }));
        }
    }
    Ok(addresses)
}

async fn routes(v4: bool) -> Result<Vec<RouteMessage>, CniError> {
    let question = if v4 {
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()
    } else {
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build()
    };
    let netlink = open()?;
    netlink.route().get(question).execute().try_collect().await.map_err(|e| failed("reading the routes", e))
}

fn goes_to(route: &RouteMessage, index: u32) -> bool {
    route.attributes.contains(&RouteAttribute::Oif(index))
}

fn route(to: IpAddr, prefix: u8, index: u32) -> Result<RouteMessageBuilder<IpAddr>, CniError> {
    RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .destination_prefix(to, prefix)
        .map_err(|e| CniError::new(code::NETWORK_FAILED, format!("a route to {to}/{prefix}"), e))
}

async fn neighbour(netlink: &Handle, index: u32, address: IpAddr, mac: Mac) -> Result<(), CniError> {
    let request = netlink.neighbours().add(index, address).link_layer_address(&mac.0).replace();
    request.execute().await.map_err(|e| failed(format!("making {address} a permanent neighbour"), e))
}

async fn up(netlink: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    let message = LinkUnspec::new_with_index(index).up().build();
    netlink.link().change(message).execute().await
}

/// A netlink connection of the thread's namespace, served by the thread's runtime.
fn open() -> Result<Handle, CniError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|e| CniError::io("opening netlink", &e))?;
    tokio::spawn(connection);
    Ok(handle)
}

fn describe(link: &LinkMessage) -> Device {
    let mut device = Device {
        index: link.header.index,
        mac: Mac([0; 6]),
        up: link.header.flags.contains(LinkFlags::Up),
        peer: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                device.mac = Mac(bytes.as_slice().try_into().unwrap_or_default());
            }
            LinkAttribute::Link(index) => device.peer = Some(*index),
            _ => {}
        }
    }
    device
}

fn sysctl(name: &str, value: &str) -> Result<(), CniError> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).map_err(|e| CniError::io(&format!("writing {value} to {path}"), &e))
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

fn failed(doing: impl Into<String>, error: rtnetlink::Error) -> CniError {
    // The library prints numbers; the kernel's own words are clearer.
    let details = match errno(&error) {
        Some(number) => io::Error::from_raw_os_error(number).to_string(),
        None => error.to_string(),
    };
    CniError::new(code::NETWORK_FAILED, doing, details)
}
