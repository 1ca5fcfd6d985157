//! What the DNS server needs to know, as the agent streams it: `GET /v1/dns` answers with one JSON document
//! a line, the whole state each time, whenever it changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

/// Services and the addresses behind headless ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsState {
    pub services: Vec<DnsService>,
}

/// One service's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsService {
    pub namespace: String,
    pub name: String,
    /// Empty for a headless service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<DnsPort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Ready endpoints, for headless services only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<DnsEndpoint>,
}

/// A named port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsPort {
    pub name: String,
    /// Service port (for a headless service: the endpoints' own).
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
}

/// One address behind a headless service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsEndpoint {
    pub address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

impl DnsState {
    /// The part of a snapshot that DNS shows. Equal states are equal documents, so that the agent can tell
    /// whether anything changed.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let services = snapshot.services.values().map(|service| {
            let headless = service.cluster_ips.is_empty() && service.external_name.is_none();
            let mut endpoints: BTreeMap<IpAddr, Option<String>> = BTreeMap::new();
            let mut ports = Vec::new();
            for port in &service.ports {
                for backend in port.backends.iter().filter(|b| headless && b.ready) {
                    let hostname = endpoints.entry(backend.address).or_default();
                    *hostname = hostname.take().or_else(|| backend.hostname.clone());
                }
                if !port.name.is_empty() {
                    let target = port.backends.first().map(|b| b.port).filter(|_| headless);
                    let number = target.unwrap_or(port.port);
                    ports.push(DnsPort { name: port.name.clone(), port: number, proto: port.proto });
                }
            }
            DnsService {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                cluster_ips: service.cluster_ips.clone(),
                ports,
                external_name: service.external_name.clone(),
                endpoints: endpoints
                    .into_iter()
                    .map(|(address, hostname)| DnsEndpoint { address, hostname })
                    .collect(),
            }
        });
        DnsState { services: services.collect() }
    }
}
