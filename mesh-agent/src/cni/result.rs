//! The answer to ADD (CNI spec 1.1, section 5, "Success"), in the form of each version.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::config::Version;
use super::link::Ends;
use super::wire::Allocation;

/// Index of the pod's end in `interfaces`.
pub(super) const POD_INTERFACE: usize = 1;

/// Interfaces (the host's end, then the pod's), addresses and routes.
pub(super) fn add_result(
    version: Version,
    allocation: &Allocation,
    ends: &Ends,
    ifname: &str,
    sandbox: &str,
) -> Value {
    let mut interfaces = [
        json!({ "name": allocation.host_ifname, "mac": ends.host_mac.to_string() }),
        json!({ "name": ifname, "mac": ends.pod_mac.to_string(), "sandbox": sandbox }),
    ];
    if version >= Version::V1_1 {
        for interface in &mut interfaces {
            interface["mtu"] = json!(allocation.mtu);
        }
    }
    let ips: Vec<Value> = allocation
        .addresses
        .iter()
        .map(|address| {
            let (prefix, family) = if address.ip.is_ipv4() { (32, "4") } else { (128, "6") };
            let mut ip = json!({
                "interface": POD_INTERFACE,
                "address": format!("{}/{prefix}", address.ip),
                "gateway": address.gateway,
            });
            // Versions before 1.0 name the family.
            if version < Version::V1_0 {
                ip["version"] = json!(family);
            }
            ip
        })
        .collect();
    let routes: Vec<Value> = allocation
        .addresses
        .iter()
        .map(|address| {
            let everything = if address.ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({ "dst": everything, "gw": address.gateway })
        })
        .collect();
    json!({
        "cniVersion": version.name(),
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
        "dns": {},
    })
}

/// The addresses that a result gives to the interface in the container; `None` if it is not a result.
pub(super) fn addresses_of(result: &Value) -> Option<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for ip in result.get("ips")?.as_array()? {
        let ours = ip.get("interface").is_none_or(|index| index.as_u64() == Some(POD_INTERFACE as u64));
        if ours {
            let (address, _prefix) = ip.get("address")?.as_str()?.split_once('/')?;
            addresses.push(address.parse().ok()?);
        }
    }
    Some(addresses)
}
