//! From messages to the configuration. What cannot be understood refuses the whole update, so that a
//! revision is in force entirely or not at all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use abi::{Direction, PolicyEntry, PolicyKey, proto};
use ipnet::IpNet;
use policy::L7Policy;
use policy::l7::{HeaderRule, HttpRule, L7RuleSet, MismatchAction};

use super::{Backend, Config, Endpoint, Peer, Service};
use crate::wire;

/// Why an update is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("a delta came before any full configuration")]
    NoBase,
    #[error("{what} {value:?} is not valid")]
    Value { what: &'static str, value: String },
    #[error("endpoint {endpoint}: {error}")]
    Policy { endpoint: u32, error: policy::l7::L7Error },
}

fn invalid(what: &'static str, value: impl ToString) -> ConfigError {
    ConfigError::Value { what, value: value.to_string() }
}

type Shared = HashMap<u64, Vec<(Arc<Vec<L7RuleSet>>, Arc<L7Policy>)>>;

impl Config {
    /// The configuration after `update`; `self` stays what it is.
    pub fn apply(&self, update: &wire::ConfigUpdate) -> Result<Self, ConfigError> {
        if !update.full && self.revision == 0 {
            return Err(ConfigError::NoBase);
        }
        let mut next = if update.full { Self::default() } else { self.clone() };
        next.revision = update.revision;
        for prefix in &update.removed_prefixes {
            next.ipcache.remove(prefix.parse().map_err(|_| invalid("prefix", prefix))?);
        }
        for prefix in &update.ipcache {
            let net: IpNet = prefix.prefix.parse().map_err(|_| invalid("prefix", &prefix.prefix))?;
            let (identity, endpoint, flags) = (prefix.identity, prefix.endpoint, prefix.flags);
            next.ipcache.insert(net, Peer { identity, endpoint, flags });
        }
        for name in &update.removed_services {
            if let Some(vip) = removed_service(name)? {
                next.services.remove(&vip);
            }
        }
        for service in &update.services {
            if service.proto == u32::from(proto::TCP) {
                let service = self.service_from(service)?;
                next.services.insert(service.vip, Arc::new(service));
            }
        }
        for id in &update.removed_endpoints {
            next.endpoints.remove(id);
        }
        let mut shared = Shared::new();
        for endpoint in &update.endpoints {
            let endpoint = self.endpoint_from(endpoint, &mut shared)?;
            next.endpoints.insert(endpoint.id, Arc::new(endpoint));
        }
        Ok(next)
    }

    fn service_from(&self, service: &wire::Service) -> Result<Service, ConfigError> {
        let vip = service.vip.parse().map_err(|_| invalid("vip", &service.vip))?;
        let old = self.services.get(&vip);
        let backend = |text: &String| {
            let address: SocketAddr = text.parse().map_err(|_| invalid("backend", text))?;
            // The same counter goes on counting what is still in flight.
            let active = old
                .and_then(|old| old.backends.iter().find(|b| b.address == address))
                .map_or_else(|| Arc::new(AtomicU32::new(0)), |b| Arc::clone(&b.active));
            Ok(Backend { address, active })
        };
        let backends = service.backends.iter().map(backend).collect::<Result<_, ConfigError>>()?;
        Ok(Service { vip, affinity: service.affinity_seconds > 0, backends })
    }

    fn endpoint_from(&self, endpoint: &wire::Endpoint, shared: &mut Shared) -> Result<Endpoint, ConfigError> {
        let id = endpoint.id;
        let entries = endpoint.entries.iter().map(map_entry).collect::<Result<_, _>>()?;
        let rule_sets = endpoint.l7.iter().map(rule_set).collect::<Result<Vec<_>, ConfigError>>()?;
        let (l7_source, l7) = self.l7_policy(id, rule_sets, shared)?;
        Ok(Endpoint { id, identity: endpoint.identity, entries, l7, l7_source })
    }

    /// Compiles, or shares what was compiled from the same rules: before for this endpoint, or in this
    /// update for another.
    fn l7_policy(
        &self,
        id: u32,
        rule_sets: Vec<L7RuleSet>,
        shared: &mut Shared,
    ) -> Result<(Arc<Vec<L7RuleSet>>, Arc<L7Policy>), ConfigError> {
        if let Some(old) = self.endpoints.get(&id)
            && *old.l7_source == rule_sets
        {
            return Ok((Arc::clone(&old.l7_source), Arc::clone(&old.l7)));
        }
        let known = shared.entry(fingerprint(&rule_sets)).or_default();
        if let Some((source, compiled)) = known.iter().find(|(source, _)| **source == rule_sets) {
            return Ok((Arc::clone(source), Arc::clone(compiled)));
        }
        let compiled =
            L7Policy::new(&rule_sets).map_err(|error| ConfigError::Policy { endpoint: id, error })?;
        let entry = (Arc::new(rule_sets), Arc::new(compiled));
        known.push(entry.clone());
        Ok(entry)
    }
}

/// Cheap and stable, but not unique: equal rule sets have equal ones.
fn fingerprint(rule_sets: &[L7RuleSet]) -> u64 {
    rule_sets.iter().fold(rule_sets.len() as u64, |sum, set| {
        sum.wrapping_mul(31).wrapping_add(u64::from(set.rule)).wrapping_mul(31) + u64::from(set.ports.0)
    })
}

/// The VIP of a [`wire::Service::key`]; `None` if it is not TCP.
fn removed_service(name: &str) -> Result<Option<SocketAddr>, ConfigError> {
    let (vip, number) = name.rsplit_once('/').ok_or_else(|| invalid("service", name))?;
    let vip = vip.parse().map_err(|_| invalid("service", name))?;
    let number: u8 = number.parse().map_err(|_| invalid("service", name))?;
    Ok((number == proto::TCP).then_some(vip))
}

fn map_entry(entry: &wire::PolicyMapEntry) -> Result<(PolicyKey, PolicyEntry), ConfigError> {
    let byte = |what, value: u32| u8::try_from(value).map_err(|_| invalid(what, value));
    let prefix_len = entry.prefix_len;
    if !(PolicyKey::PREFIX_PEER..=PolicyKey::PREFIX_FULL).contains(&prefix_len) {
        return Err(invalid("prefix length", prefix_len));
    }
    let key = PolicyKey {
        prefix_len,
        identity: entry.identity,
        direction: direction(entry.direction)? as u8,
        proto: byte("protocol", entry.proto)?,
        port: port(entry.port)?.to_be(),
    };
    let value = PolicyEntry {
        precedence: entry.precedence,
        rule: entry.rule,
        verdict: byte("verdict", entry.verdict)?,
        _pad: [0; 3],
    };
    Ok((key, value))
}

fn port(value: u32) -> Result<u16, ConfigError> {
    u16::try_from(value).map_err(|_| invalid("port", value))
}

fn direction(value: u32) -> Result<Direction, ConfigError> {
    match value {
        0 => Ok(Direction::Ingress),
        1 => Ok(Direction::Egress),
        other => Err(invalid("direction", other)),
    }
}

fn rule_set(set: &wire::L7RuleSet) -> Result<L7RuleSet, ConfigError> {
    Ok(L7RuleSet {
        direction: direction(set.direction)?,
        peers: (!set.any_peer).then(|| set.peers.iter().copied().collect()),
        ports: (port(set.first_port)?, port(set.last_port)?),
        rule: set.rule,
        http: set.http.iter().map(http_rule).collect::<Result<_, _>>()?,
    })
}

fn http_rule(rule: &wire::HttpRule) -> Result<HttpRule, ConfigError> {
    Ok(HttpRule {
        method: rule.method.clone(),
        path: rule.path.clone(),
        host: rule.host.clone(),
        headers: rule.headers.iter().map(header_rule).collect::<Result<_, _>>()?,
    })
}

fn header_rule(rule: &wire::HeaderRule) -> Result<HeaderRule, ConfigError> {
    let mismatch = match rule.mismatch {
        0 => MismatchAction::Fail,
        1 => MismatchAction::Log,
        2 => MismatchAction::Add,
        3 => MismatchAction::Delete,
        4 => MismatchAction::Replace,
        other => return Err(invalid("mismatch action", other)),
    };
    Ok(HeaderRule { name: rule.name.clone(), value: rule.value.clone(), mismatch })
}
