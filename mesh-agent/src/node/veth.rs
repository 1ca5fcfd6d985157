//! The host's end of a pod's veth, and the routes to the pod.
//!
//! It bears no address: the gateway that pods are told of exists nowhere but in their table of permanent
//! neighbours. So the node speaks to its pods from an address by which they (and policy) know it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::net::if_::if_indextoname;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};

use super::{NodeError, Plumbing, ROUTE_PROTOCOL, sysctl};

/// The gateway of every pod.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

impl Plumbing {
    /// Makes the host's end of a veth ready for a pod with these addresses: sysctls, up, a route to each
    /// address. Repeating it is fine. All of it goes with the device.
    pub async fn prepare_veth(&self, ifindex: u32, pod: &[IpAddr]) -> Result<(), NodeError> {
        let name = if_indextoname(ifindex).map_err(|error| NodeError::Sysctl {
            operation: "find the device of",
            path: format!("device {ifindex}").into(),
            source: error.into(),
        })?;
        let name = name.to_string_lossy();
        for (path, value) in [
            // Duplicate address detection would take a second, on a link of two ends.
            (format!("ipv6/conf/{name}/accept_dad"), "0"),
            (format!("ipv6/conf/{name}/accept_ra"), "0"),
            // A pod must not tell the node where to route.
            (format!("ipv6/conf/{name}/accept_redirects"), "0"),
            (format!("ipv4/conf/{name}/accept_redirects"), "0"),
            // The program checks sources; this holds where it is missing.
            (format!("ipv4/conf/{name}/rp_filter"), "1"),
            sysctl::reverse_path_by_mark(&name),
            // Written per device as well: `all` may have been set before this device was made.
            (format!("ipv4/conf/{name}/forwarding"), "1"),
            (format!("ipv6/conf/{name}/forwarding"), "1"),
        ] {
            sysctl::write(&path, value)?;
        }
        self.up(ifindex).await?;
        for address in pod {
            self.route_to(ifindex, *address).await?;
        }
        Ok(())
    }

    async fn route_to(&self, ifindex: u32, address: IpAddr) -> Result<(), NodeError> {
        let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let net = IpNet::from(address);
        let route = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(address, net.prefix_len())
                .scope(RouteScope::Link)
                .protocol(protocol)
                .output_interface(ifindex)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(address, net.prefix_len())
                .protocol(protocol)
                .output_interface(ifindex)
                .build(),
        };
        let operation = format!("route {address} to device {ifindex}");
        let request = self.handle.route().add(route).replace().execute();
        request.await.map_err(NodeError::netlink(operation))
    }
}
