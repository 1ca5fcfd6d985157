//! What the API server checks beyond the types, as far as it matters to us: names, labels, ports, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::problem::Fault;

/// Most ports of one service, which the kernel's maps are laid out for.
pub const SERVICE_PORTS_MAX: usize = 100;

/// A DNS subdomain, as most names must be (RFC 1123).
pub fn name(name: &str) -> Result<(), String> {
    let valid = name.len() <= 253 && name.split('.').all(is_dns_label);
    valid.then_some(()).ok_or_else(|| {
        format!(
            "{name:?} is not a valid name: lower case letters, digits, '-' and '.', at most 253 characters"
        )
    })
}

/// A DNS label, as namespaces, services and ports must be.
pub fn label_name(name: &str) -> Result<(), String> {
    let valid = name.len() <= 63 && is_dns_label(name);
    valid.then_some(()).ok_or_else(|| {
        format!("{name:?} is not a valid name: lower case letters, digits and '-', at most 63 characters")
    })
}

fn is_dns_label(label: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty() && label.bytes().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
}

fn labels(labels: Option<&BTreeMap<String, String>>, path: &str) -> Result<(), Fault> {
    for (key, value) in labels.into_iter().flatten() {
        let (prefix, tail) = key.split_once('/').map_or((None, key.as_str()), |(p, n)| (Some(p), n));
        if prefix.is_some_and(|p| name(p).is_err()) || tail.is_empty() || !is_label_text(tail) {
            return Err(Fault::new(format!("{path}.{key}"), format!("{key:?} is not a valid label key")));
        }
        if !value.is_empty() && !is_label_text(value) {
            let reason = format!(
                "{value:?} is not a valid label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
            );
            return Err(Fault::new(format!("{path}.{key}"), reason));
        }
    }
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

pub(super) fn namespace(namespace: &Namespace) -> Result<(), Fault> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    label_name(name).map_err(|reason| Fault::new("metadata.name", reason))?;
    labels(namespace.metadata.labels.as_ref(), "metadata.labels")
}

pub(super) fn node(node: &Node) -> Result<(), Fault> {
    labels(node.metadata.labels.as_ref(), "metadata.labels")?;
    for (i, cidr) in node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten()).enumerate() {
        let path = || format!("spec.podCIDRs[{i}]");
        let cidr: IpNet =
            cidr.parse().map_err(|_| Fault::new(path(), format!("{cidr:?} is not a CIDR block")))?;
        if cidr.trunc() != cidr {
            return Err(Fault::new(path(), format!("{cidr} has bits set below its prefix")));
        }
    }
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten()).enumerate();
    for (i, at) in addresses.filter(|(_, at)| matches!(at.type_.as_str(), "InternalIP" | "ExternalIP")) {
        address(&at.address).map_err(|why| Fault::new(format!("status.addresses[{i}].address"), why))?;
    }
    Ok(())
}

pub(super) fn pod(pod: &Pod) -> Result<(), Fault> {
    labels(pod.metadata.labels.as_ref(), "metadata.labels")?;
    let Some(spec) = &pod.spec else { return Err(Fault::new("spec", "missing")) };
    if spec.containers.is_empty() {
        return Err(Fault::new("spec.containers", "at least one container is needed"));
    }
    let ordinary = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c));
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    let mut names = BTreeSet::new();
    for (path, container) in ordinary.chain(init) {
        label_name(&container.name).map_err(|why| Fault::new(format!("{path}.name"), why))?;
        if !names.insert(&container.name) {
            return Err(Fault::new(format!("{path}.name"), format!("{:?} is used twice", container.name)));
        }
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("{path}.ports[{i}]");
            number(port.container_port, &format!("{path}.containerPort"))?;
            protocol(port.protocol.as_deref(), &format!("{path}.protocol"))?;
            if let Some(name) = &port.name {
                port_name(name, &format!("{path}.name"))?;
            }
        }
    }
    for (i, ip) in pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten()).enumerate() {
        address(&ip.ip).map_err(|why| Fault::new(format!("status.podIPs[{i}].ip"), why))?;
    }
    if let Some(ip) = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).filter(|ip| !ip.is_empty()) {
        address(ip).map_err(|why| Fault::new("status.podIP", why))?;
    }
    Ok(())
}

pub(super) fn service(service: &Service) -> Result<(), Fault> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    label_name(name).map_err(|reason| Fault::new("metadata.name", reason))?;
    let Some(spec) = &service.spec else { return Err(Fault::new("spec", "missing")) };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    match kind {
        "ExternalName" => {
            let target = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
            return self::name(target).map_err(|why| Fault::new("spec.externalName", why));
        }
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => return Err(Fault::new("spec.type", format!("unknown type {other:?}"))),
    }
    let given = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let list = spec.cluster_ips.iter().flatten().enumerate();
    let list = list.map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    for (path, ip) in given.chain(list).filter(|(_, ip)| !matches!(ip.as_str(), "" | "None")) {
        address(ip).map_err(|why| Fault::new(path, why))?;
    }
    let first = spec.cluster_ips.iter().flatten().next();
    if let (Some(one), Some(first)) = (&spec.cluster_ip, first)
        && one != first
    {
        return Err(Fault::new("spec.clusterIPs[0]", "differs from spec.clusterIP"));
    }
    affinity(service)?;
    for (i, family) in spec.ip_families.iter().flatten().enumerate() {
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            return Err(Fault::new(format!("spec.ipFamilies[{i}]"), format!("unknown family {family:?}")));
        }
    }
    let policy = spec.ip_family_policy.as_deref().unwrap_or("SingleStack");
    if !matches!(policy, "SingleStack" | "PreferDualStack" | "RequireDualStack") {
        return Err(Fault::new("spec.ipFamilyPolicy", format!("unknown policy {policy:?}")));
    }
    let headless = spec.cluster_ip.as_deref() == Some("None") || first.is_some_and(|ip| ip == "None");
    service_ports(spec.ports.as_deref().unwrap_or_default(), headless)
}

fn affinity(service: &Service) -> Result<(), Fault> {
    let Some(spec) = &service.spec else { return Ok(()) };
    match spec.session_affinity.as_deref().unwrap_or("None") {
        "None" | "ClientIP" => {}
        other => return Err(Fault::new("spec.sessionAffinity", format!("unknown affinity {other:?}"))),
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    match config.and_then(|c| c.timeout_seconds) {
        Some(seconds) if !(1..=86_400).contains(&seconds) => Err(Fault::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} is not in 1..86400"),
        )),
        _ => Ok(()),
    }
}

fn service_ports(ports: &[ServicePort], headless: bool) -> Result<(), Fault> {
    if ports.is_empty() && !headless {
        return Err(Fault::new("spec.ports", "at least one port is needed"));
    }
    if ports.len() > SERVICE_PORTS_MAX {
        return Err(Fault::new("spec.ports", format!("more than {SERVICE_PORTS_MAX} ports")));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let path = |field: &str| format!("spec.ports[{i}].{field}");
        number(port.port, &path("port"))?;
        let proto = protocol(port.protocol.as_deref(), &path("protocol"))?;
        if !numbers.insert((port.port, proto)) {
            return Err(Fault::new(path("port"), format!("port {} is given twice", port.port)));
        }
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            return Err(Fault::new(path("name"), "missing: with several ports each needs a name"));
        }
        if !name.is_empty() {
            label_name(name).map_err(|why| Fault::new(path("name"), why))?;
        }
        if !names.insert(name) {
            return Err(Fault::new(path("name"), format!("{name:?} is used twice")));
        }
        match &port.target_port {
            Some(IntOrString::Int(target)) => drop(number(*target, &path("targetPort"))?),
            Some(IntOrString::String(target)) => port_name(target, &path("targetPort"))?,
            None => {}
        }
    }
    Ok(())
}

/// What a service asks for that it does not get.
pub(super) fn service_warnings(service: &Service) -> Vec<Fault> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut warnings = Vec::new();
    if let Some(kind @ ("NodePort" | "LoadBalancer")) = spec.type_.as_deref() {
        let reason = format!("{kind} is not served from outside yet; its cluster address is");
        warnings.push(Fault::new("spec.type", reason));
    }
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        warnings.push(Fault::new("spec.externalIPs", "not served"));
    }
    for (path, policy) in [
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy),
        ("spec.externalTrafficPolicy", &spec.external_traffic_policy),
    ] {
        if policy.as_deref() == Some("Local") {
            warnings.push(Fault::new(path, "Local is not honoured yet; all ready endpoints are used"));
        }
    }
    warnings
}

pub(super) fn endpoint_slice(slice: &EndpointSlice) -> Result<(), Fault> {
    let family = match slice.address_type.as_str() {
        "IPv4" => Some(true),
        "IPv6" => Some(false),
        "FQDN" => None,
        other => return Err(Fault::new("addressType", format!("{other:?} is not one of IPv4, IPv6, FQDN"))),
    };
    for (i, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        for (j, text) in endpoint.addresses.iter().enumerate() {
            let path = || format!("endpoints[{i}].addresses[{j}]");
            let Some(v4) = family else { continue };
            let ip = address(text).map_err(|why| Fault::new(path(), why))?;
            if ip.is_ipv4() != v4 {
                return Err(Fault::new(path(), format!("{ip} is not an {} address", slice.address_type)));
            }
        }
        if let Some(hostname) = &endpoint.hostname {
            label_name(hostname).map_err(|why| Fault::new(format!("endpoints[{i}].hostname"), why))?;
        }
    }
    for (i, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(port) = port.port {
            number(port, &format!("ports[{i}].port"))?;
        }
        protocol(port.protocol.as_deref(), &format!("ports[{i}].protocol"))?;
    }
    Ok(())
}

/// A port number, 1 to 65535.
fn number(port: i32, path: &str) -> Result<u16, Fault> {
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    port.ok_or_else(|| Fault::new(path, "missing or not in 1..65535"))
}

/// IANA number of a transport protocol, TCP by default.
pub(super) fn protocol(name: Option<&str>, path: &str) -> Result<u8, Fault> {
    match name.unwrap_or("TCP") {
        "TCP" => Ok(6),
        "UDP" => Ok(17),
        "SCTP" => Ok(132),
        other => Err(Fault::new(path, format!("{other:?} is not one of TCP, UDP, SCTP"))),
    }
}

/// An IANA service name (RFC 6335, 5.1).
fn port_name(name: &str, path: &str) -> Result<(), Fault> {
    let valid = name.len() <= 15
        && is_dns_label(name)
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.contains("--");
    valid.then_some(()).ok_or_else(|| {
        Fault::new(
            path,
            format!("{name:?} is not a valid port name: at most 15 of a-z, 0-9 and -, with a letter"),
        )
    })
}

/// A unicast address that can belong to a workload.
fn address(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is not an IP address"))?;
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    if local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
        return Err(format!(
            "{ip} cannot be used here: loopback, link-local, multicast, mapped or unspecified"
        ));
    }
    Ok(ip)
}
