//! One Service, with its EndpointSlices or else the pods that it selects, into a service of the snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service as Manifest, ServicePort as ManifestPort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::snapshot::{Backend, Endpoint, Service, ServicePort};

use super::cluster_ips::Wanted;
use super::validate;

/// Label of an EndpointSlice with the name of its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// `sessionAffinity: ClientIP` without a time, in seconds (Kubernetes).
const AFFINITY_SECONDS: u32 = 10_800;

/// A pod that a service selects.
#[derive(Clone, Debug)]
pub struct Selected<'a> {
    pub pod: &'a Pod,
    pub endpoint: &'a Endpoint,
}

/// Where backends come from.
#[derive(Debug)]
pub enum Source<'a> {
    Slices(Vec<&'a Arc<EndpointSlice>>),
    Pods(Vec<Selected<'a>>),
}

/// The selector of a service; `None` without one.
pub fn selector(manifest: &Manifest) -> Option<&BTreeMap<String, String>> {
    let spec = manifest.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

/// Whether the service has no address by its own wish.
fn is_headless(manifest: &Manifest) -> bool {
    let Some(spec) = &manifest.spec else { return false };
    let none = |ip: &str| ip == "None";
    spec.cluster_ip.as_deref().is_some_and(none)
        || spec.cluster_ips.iter().flatten().next().is_some_and(|ip| none(ip))
}

fn is_external(manifest: &Manifest) -> bool {
    manifest.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName")
}

/// The families of a service (true = IPv4) by the rules of Kubernetes: what `ipFamilies` or its addresses
/// say, else the default family, and both if `ipFamilyPolicy` asks for it.
fn families(manifest: &Manifest, available: &[bool]) -> Vec<bool> {
    let Some(spec) = &manifest.spec else { return Vec::new() };
    let asked = spec.ip_families.iter().flatten().map(|family| family == "IPv4");
    let given = explicit(manifest).into_iter().map(|ip| ip.is_ipv4());
    let mut families: Vec<bool> = Vec::new();
    for family in asked.chain(given) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let selects = spec.selector.as_ref().is_some_and(|s| !s.is_empty());
    if families.is_empty() && is_headless(manifest) && !selects {
        // Its slices alone say what it has.
        return vec![true, false];
    }
    let policy = spec.ip_family_policy.as_deref().unwrap_or("SingleStack");
    let wanted = if policy == "SingleStack" { families.len().max(1) } else { 2 };
    for family in available {
        if families.len() < wanted && !families.contains(family) {
            families.push(*family);
        }
    }
    families
}

fn explicit(manifest: &Manifest) -> Vec<IpAddr> {
    let Some(spec) = &manifest.spec else { return Vec::new() };
    let one = spec.cluster_ip.iter();
    let list = spec.cluster_ips.iter().flatten();
    let parsed: BTreeSet<IpAddr> = one.chain(list).filter_map(|ip| ip.parse().ok()).collect();
    parsed.into_iter().collect()
}

/// The addresses that a service asks for.
pub fn wanted(manifest: &Manifest, available: &[bool]) -> Wanted {
    if is_headless(manifest) || is_external(manifest) {
        return Wanted::default();
    }
    let addresses = explicit(manifest);
    let mut families = families(manifest, available);
    families.retain(|v4| !addresses.iter().any(|ip| ip.is_ipv4() == *v4));
    // A family that there is no block for cannot be had; with one address the service works all the same.
    if !addresses.is_empty() {
        families.retain(|v4| available.contains(v4));
    }
    Wanted { addresses, families }
}

/// The service as the snapshot has it. `cluster_ips` are those that it was granted.
pub fn service(
    namespace: &str,
    manifest: &Manifest,
    cluster_ips: Vec<IpAddr>,
    available: &[bool],
    source: &Source<'_>,
) -> Service {
    let name = manifest.metadata.name.clone().unwrap_or_default();
    let mut service = Service { namespace: namespace.to_owned(), name, ..Service::default() };
    let Some(spec) = &manifest.spec else { return service };
    if is_external(manifest) {
        service.external_name = spec.external_name.as_ref().map(|n| n.trim_end_matches('.').to_owned());
        return service;
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
        service.affinity_seconds = seconds.unwrap_or(AFFINITY_SECONDS);
    }
    let families = match (is_headless(manifest), cluster_ips.is_empty()) {
        (false, false) => cluster_ips.iter().map(IpAddr::is_ipv4).collect(),
        _ => families(manifest, available),
    };
    service.cluster_ips = cluster_ips;
    let always_ready = spec.publish_not_ready_addresses.unwrap_or(false);
    service.ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let (number, proto) = number_and_proto(port)?;
            let mut backends = match source {
                Source::Slices(slices) => from_slices(slices, port, number, proto),
                Source::Pods(pods) => from_pods(pods, &service.name, port, number, proto),
            };
            backends.retain(|b| families.contains(&b.address.is_ipv4()));
            backends.sort_by_key(|b| (b.address, b.port));
            backends.dedup_by_key(|b| (b.address, b.port));
            backends.iter_mut().for_each(|b| b.ready |= always_ready);
            let name = port.name.clone().unwrap_or_default();
            Some(ServicePort { name, port: number, proto, app_protocol: port.app_protocol.clone(), backends })
        })
        .collect();
    service
}

fn number_and_proto(port: &ManifestPort) -> Option<(u16, u8)> {
    Some((u16::try_from(port.port).ok()?, validate::protocol(port.protocol.as_deref(), "").ok()?))
}

fn from_pods(
    pods: &[Selected<'_>],
    service: &str,
    port: &ManifestPort,
    number: u16,
    proto: u8,
) -> Vec<Backend> {
    let mut backends = Vec::new();
    for Selected { pod, endpoint } in pods {
        // A name may stand for another number in every pod; a pod that lacks it does not serve this port.
        let target = match &port.target_port {
            None => Some(number),
            Some(IntOrString::Int(0)) => Some(number),
            Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
            Some(IntOrString::String(name)) => {
                endpoint.named_ports.iter().find(|p| p.name == *name && p.proto == proto).map(|p| p.port)
            }
        };
        let Some(target) = target else { continue };
        let spec = pod.spec.as_ref();
        let in_service = spec.and_then(|s| s.subdomain.as_deref()) == Some(service);
        let hostname = spec.and_then(|s| s.hostname.clone()).filter(|h| in_service && !h.is_empty());
        let key = format!("{}/{}", endpoint.namespace, endpoint.name);
        backends.extend(endpoint.addresses.iter().map(|address| Backend {
            address: *address,
            port: target,
            ready: endpoint.ready,
            endpoint: Some(key.clone()),
            hostname: hostname.clone(),
        }));
    }
    backends
}

fn from_slices(slices: &[&Arc<EndpointSlice>], port: &ManifestPort, number: u16, proto: u8) -> Vec<Backend> {
    let name = port.name.as_deref().unwrap_or_default();
    let same = |p: &EndpointPort| {
        p.name.as_deref().unwrap_or_default() == name
            && validate::protocol(p.protocol.as_deref(), "").is_ok_and(|p| p == proto)
    };
    let mut backends = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type != "FQDN") {
        // A slice without the port does not serve it; a port without a number is the service's own.
        let Some(target) = slice.ports.iter().flatten().find(|p| same(p)) else { continue };
        let target = target.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(number);
        let namespace = slice.metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        for endpoint in slice.endpoints.iter().flatten() {
            backends.extend(slice_backends(endpoint, namespace, target));
        }
    }
    backends
}

fn slice_backends(endpoint: &SliceEndpoint, namespace: &str, port: u16) -> Vec<Backend> {
    // Not known means ready (EndpointConditions.ready).
    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
    let pod = target.and_then(|t| {
        let namespace = t.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
        Some(format!("{namespace}/{}", t.name.as_deref()?))
    });
    let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
    addresses
        .map(|address| Backend {
            address,
            port,
            ready,
            endpoint: pod.clone(),
            hostname: endpoint.hostname.clone(),
        })
        .collect()
}
