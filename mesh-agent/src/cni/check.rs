//! CHECK: is the container's network still what ADD made of it?

use std::fs::File;
use std::net::IpAddr;

use super::agent::Agent;
use super::config::{Config, Environment};
use super::error::{CniError, code};
use super::wire::CheckRequest;
use super::{link, netns, result};

/// Verifies device, addresses and default routes in the container, the host's end and its routes, and that
/// the agent knows the attachment with these values.
pub(super) async fn check(agent: &Agent, environment: &Environment, config: &Config) -> Result<(), CniError> {
    let attachment = environment.attachment()?;
    let path = environment.netns()?;
    let Some(previous) = &config.prev_result else {
        return Err(CniError::new(code::INVALID_CONFIG, "CHECK needs prevResult", "it is missing"));
    };
    let Some(addresses) = result::addresses_of(previous) else {
        return Err(CniError::new(code::INVALID_CONFIG, "prevResult", "field ips is not a result's"));
    };
    let target: File = netns::open(&path)?;
    let host_ifindex = netns::within(&target, || pod_side(&attachment.ifname, &addresses))?;
    if !link::is_up(host_ifindex).await? {
        return Err(failed(format!("the host's end (interface {host_ifindex}) is missing or down")));
    }
    let routed = link::routed_addresses(host_ifindex).await?;
    if let Some(address) = addresses.iter().find(|address| !routed.contains(address)) {
        return Err(failed(format!("the node has no route to {address}")));
    }
    let request = CheckRequest { attachment, host_ifindex, addresses };
    agent.check(&request).await.map_err(|e| match e.code {
        code::AGENT_REFUSED => CniError { code: code::CHECK_FAILED, ..e },
        _ => e,
    })
}

/// Checks the container's side; the index of the other end.
async fn pod_side(ifname: &str, addresses: &[IpAddr]) -> Result<u32, CniError> {
    let Some(device) = link::find(ifname).await? else {
        return Err(failed(format!("interface {ifname} is gone")));
    };
    if !device.up {
        return Err(failed(format!("interface {ifname} is down")));
    }
    let present = link::addresses(device.index).await?;
    if let Some(missing) = addresses.iter().find(|address| !present.contains(address)) {
        return Err(failed(format!("interface {ifname} has lost its address {missing}")));
    }
    for v4 in [true, false] {
        let wanted = addresses.iter().any(|address| address.is_ipv4() == v4);
        if wanted && !link::has_default_route(device.index, v4).await? {
            let family = if v4 { "IPv4" } else { "IPv6" };
            return Err(failed(format!("interface {ifname} has lost its {family} default route")));
        }
    }
    device.peer.ok_or_else(|| failed(format!("interface {ifname} is not one end of a veth pair")))
}

fn failed(details: String) -> CniError {
    CniError::new(code::CHECK_FAILED, "the container's network is not what ADD made", details)
}
