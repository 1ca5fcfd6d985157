//! The names of the cluster, after "Kubernetes DNS-Based Service Discovery" 1.1.0.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::SOA;

use super::state::{DnsService, DnsState};

/// Seconds that answers, also negative ones, may be remembered.
pub(super) const TTL: u32 = 5;

/// The cluster's domain, in lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Domain(String);

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        match Name::from_ascii(&name) {
            // Room for the longest name of a service below it.
            Ok(parsed) if !parsed.is_root() && name.len() <= 100 => Ok(Domain(name)),
            _ => Err("not a domain name".to_owned()),
        }
    }
}

impl Domain {
    /// Whether a name (lower case, no final dot) is the domain or below it.
    fn holds(&self, name: &str) -> bool {
        let above = name.strip_suffix(self.0.as_str());
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }
}

/// What there is under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    pub(super) srv: Vec<(u16, Name)>,
    pub(super) ptr: Vec<Name>,
    pub(super) cname: Option<Name>,
}

/// Outcome of a look into the zone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup<'a> {
    /// The name exists, maybe with nothing under it.
    Found(&'a Records),
    /// Below the domain, and nobody's name.
    Missing,
    /// Not ours to say.
    Elsewhere,
}

/// Every name of the cluster at one moment.
#[derive(Debug)]
pub(super) struct Zone {
    domain: Domain,
    /// By name in lower case without the final dot. Names in between are there too, and empty: they exist
    /// (RFC 8020).
    names: BTreeMap<String, Records>,
    /// The zone's SOA record and its owner.
    pub(super) soa: Option<(Name, SOA)>,
}

impl Zone {
    pub(super) fn new(domain: &Domain, state: &DnsState, serial: u32) -> Self {
        let mut zone = Zone { domain: domain.clone(), names: BTreeMap::new(), soa: soa(domain, serial) };
        zone.record(&domain.0, |_| {});
        zone.record(&format!("svc.{}", domain.0), |_| {});
        for service in &state.services {
            zone.add(service);
        }
        zone
    }

    /// Looks a name up, in any case.
    pub(super) fn lookup(&self, name: &Name) -> Lookup<'_> {
        let name = key(name);
        match self.names.get(&name) {
            Some(records) => Lookup::Found(records),
            None if self.domain.holds(&name) => Lookup::Missing,
            None => Lookup::Elsewhere,
        }
    }

    fn add(&mut self, service: &DnsService) {
        let name = format!("{}.{}.svc.{}", service.name, service.namespace, self.domain.0);
        if parse(&name).is_none() {
            return;
        }
        if let Some(target) = &service.external_name {
            let target = parse(target.trim_end_matches('.'));
            return self.record(&name, |records| records.cname = target);
        }
        // Address, the name it goes by. A headless service without endpoints has none, and so no name either:
        // the specification wants NXDOMAIN.
        let mut targets: Vec<(IpAddr, String)> = Vec::new();
        if service.cluster_ips.is_empty() {
            for endpoint in &service.endpoints {
                let label = endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.address));
                targets.push((endpoint.address, format!("{label}.{name}")));
            }
        } else {
            targets.extend(service.cluster_ips.iter().map(|address| (*address, name.clone())));
        }
        for (address, target) in &targets {
            self.record(&name, |records| records.push(*address));
            if *target != name {
                self.record(target, |records| records.push(*address));
            }
            if let Some(target) = parse(target) {
                let reverse = key(&Name::from(*address));
                // Only this name: what lies above it is not ours.
                let records = self.names.entry(reverse).or_default();
                records.ptr.push(target);
            }
        }
        for port in service.ports.iter().filter(|_| !targets.is_empty()) {
            let protocol = match port.proto {
                6 => "tcp",
                17 => "udp",
                132 => "sctp",
                _ => continue,
            };
            let mut behind: Vec<Name> = targets.iter().filter_map(|(_, target)| parse(target)).collect();
            behind.sort();
            behind.dedup();
            self.record(&format!("_{}._{protocol}.{name}", port.name), |records| {
                records.srv.extend(behind.into_iter().map(|target| (port.port, target)));
            });
        }
    }

    /// Changes the records of a name of ours, which begins to exist with all names above it.
    fn record(&mut self, name: &str, change: impl FnOnce(&mut Records)) {
        let name = name.to_ascii_lowercase();
        let mut above = name.as_str();
        while let Some((_, rest)) = above.split_once('.') {
            if !self.domain.holds(rest) {
                break;
            }
            self.names.entry(rest.to_owned()).or_default();
            above = rest;
        }
        change(self.names.entry(name).or_default());
    }
}

impl Records {
    fn push(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.v4.push(v4),
            IpAddr::V6(v6) => self.v6.push(v6),
        }
    }
}

fn soa(domain: &Domain, serial: u32) -> Option<(Name, SOA)> {
    let below = |label: &str| parse(&format!("{label}.{}", domain.0));
    let soa = SOA::new(below("ns.dns")?, below("hostmaster")?, serial, 7200, 1800, 86400, TTL);
    Some((parse(&domain.0)?, soa))
}

fn key(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// A fully qualified name; `None` for what is none, such as an `externalName` that was never checked.
fn parse(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// `10-0-0-1`: the name of an endpoint that has none.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
