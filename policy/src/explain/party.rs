//! The two sides of a flow by name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use abi::ipcache_flags;

use super::{Query, ServiceHop};
use crate::compiled::CompiledPolicy;
use crate::identity;
use crate::snapshot::{Endpoint, Snapshot};

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// As it was asked for.
    pub text: String,
    pub identity: u32,
    /// `namespace/name`, if it is a pod.
    pub endpoint: Option<String>,
    pub address: Option<IpAddr>,
    /// Of its identity.
    pub labels: std::sync::Arc<crate::snapshot::Labels>,
}

/// A name that cannot be resolved, or a policy that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartyError {
    #[error("{0:?} is no pod (namespace/name), address or entity:NAME that is known here")]
    Unknown(String),
    #[error("{0:?} is no entity with an identity")]
    UnknownEntity(String),
    #[error("{0} is a service without this port, or without a ready backend")]
    NoBackend(String),
    #[error("layer 7 rules: {0}")]
    Layer7(String),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.endpoint.as_ref().unwrap_or(&self.text))?;
        write!(f, " (identity {})", self.identity)
    }
}

impl Party {
    pub(super) fn find(
        snapshot: &Snapshot,
        compiled: &CompiledPolicy,
        text: &str,
        v4: bool,
    ) -> Result<Self, PartyError> {
        let party = |identity, endpoint, address| Self {
            text: text.to_owned(),
            identity,
            endpoint,
            address,
            labels: compiled.identities.get(&identity).cloned().unwrap_or_default(),
        };
        if let Some(name) = text.strip_prefix("entity:") {
            let number =
                identity::reserved_number(name).ok_or_else(|| PartyError::UnknownEntity(name.to_owned()))?;
            return Ok(party(number, None, None));
        }
        if let Some(endpoint) = endpoint(snapshot, text) {
            let address = endpoint.addresses.iter().find(|a| a.is_ipv4() == v4);
            let address = address.or(endpoint.addresses.first()).copied();
            let found = address.and_then(|a| compiled.lookup(a));
            let number = found.map_or(endpoint.identity, |t| t.identity);
            let name = format!("{}/{}", endpoint.namespace, endpoint.name);
            return Ok(party(number, Some(name), address));
        }
        let address: IpAddr = text.parse().map_err(|_| PartyError::Unknown(text.to_owned()))?;
        let found = compiled.lookup(address).ok_or_else(|| PartyError::Unknown(text.to_owned()))?;
        if found.flags & ipcache_flags::SERVICE_VIP != 0 {
            return Err(PartyError::NoBackend(text.to_owned()));
        }
        let pod = snapshot.endpoints.values().find(|e| !e.host_network && e.addresses.contains(&address));
        let name = pod.map(|e| format!("{}/{}", e.namespace, e.name));
        Ok(party(found.identity, name, Some(address)))
    }
}

/// The pod of a name, with or without its namespace.
pub(super) fn endpoint<'a>(snapshot: &'a Snapshot, text: &str) -> Option<&'a Endpoint> {
    let with_default = format!("default/{text}");
    let endpoint = snapshot.endpoints.get(text).or_else(|| snapshot.endpoints.get(&with_default));
    endpoint.map(AsRef::as_ref)
}

/// The backend that stands for a service's address.
pub(super) fn service(compiled: &CompiledPolicy, query: &Query) -> Option<ServiceHop> {
    let vip = SocketAddr::new(query.to.parse().ok()?, query.port);
    let service = compiled.services.iter().find(|s| s.vip == vip && s.proto == query.proto)?;
    Some(ServiceHop {
        service: format!("{}/{}", service.namespace, service.name),
        backend: *service.backends.first()?,
        backends: service.backends.len(),
    })
}
