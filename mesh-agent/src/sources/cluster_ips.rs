//! Addresses of services: those that manifests ask for, and for the rest a choice from the service blocks that
//! depends on the service's name, so that it is the same again after a restart, and is kept besides.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::problem::Fault;

/// Most addresses of one block that are tried; larger blocks (IPv6) are not used beyond.
const BLOCK_MAX: u32 = 1 << 20;

/// Which service has which address.
#[derive(Debug, Default)]
pub struct ClusterIps {
    /// In order of preference: the family of the first is the default one.
    blocks: Vec<IpNet>,
    owners: BTreeMap<IpAddr, Owner>,
    /// What each service may own, `owners` turned round.
    held: BTreeMap<String, Vec<IpAddr>>,
    chosen: Chosen,
}

/// The addresses that were chosen here, by service. This is what is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen(BTreeMap<String, Vec<IpAddr>>);

#[derive(Clone, Debug)]
struct Owner {
    service: String,
    /// Asked for by its manifest.
    explicit: bool,
}

/// What a service asks for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub addresses: Vec<IpAddr>,
    /// Families to choose an address of, true = IPv4; those that cannot be had are left out.
    pub families: Vec<bool>,
}

/// What it gets.
#[derive(Debug, Default)]
pub struct Granted {
    pub addresses: Vec<IpAddr>,
    pub faults: Vec<Fault>,
    /// Services that lost an address and must ask again.
    pub evicted: Vec<String>,
}

impl ClusterIps {
    /// `chosen` comes from the last run; what no longer lies in the blocks is chosen anew.
    pub fn new(blocks: Vec<IpNet>, mut chosen: Chosen) -> Self {
        for addresses in chosen.0.values_mut() {
            addresses.retain(|ip| blocks.iter().any(|block| block.contains(ip)));
        }
        let mut owners = BTreeMap::new();
        for (service, addresses) in &mut chosen.0 {
            addresses.retain(|ip| {
                let free = !owners.contains_key(ip);
                owners.entry(*ip).or_insert_with(|| Owner { service: service.clone(), explicit: false });
                free
            });
        }
        let held = chosen.0.clone();
        Self { blocks, owners, held, chosen }
    }

    /// The families that addresses can be chosen of, the default first.
    pub fn families(&self) -> Vec<bool> {
        let mut families: Vec<bool> = self.blocks.iter().map(|b| b.network().is_ipv4()).collect();
        families.dedup();
        families
    }

    /// What must be kept.
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// Takes back every address of services that are gone.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.held.keys().filter(|service| !exists(service)).cloned().collect();
        for service in gone {
            self.release(&service);
            self.chosen.0.remove(&service);
        }
    }

    fn release(&mut self, service: &str) {
        for ip in self.held.remove(service).unwrap_or_default() {
            if self.owners.get(&ip).is_some_and(|owner| owner.service == service) {
                self.owners.remove(&ip);
            }
        }
    }

    /// Gives a service its addresses. Explicit ones first: they take chosen ones away from others; of two
    /// services that ask for the same one, the first by name has it.
    pub fn grant(&mut self, service: &str, wanted: &Wanted) -> Granted {
        let mut granted = Granted::default();
        let before = self.chosen.0.remove(service).unwrap_or_default();
        self.release(service);
        for ip in &wanted.addresses {
            match self.owners.get(ip) {
                Some(owner) if owner.explicit && *owner.service < *service => {
                    let reason = format!("{ip} is the address of service {} already", owner.service);
                    granted.faults.push(Fault::new("spec.clusterIP", reason));
                    continue;
                }
                Some(owner) => granted.evicted.push(owner.service.clone()),
                None => {}
            }
            self.owners.insert(*ip, Owner { service: service.to_owned(), explicit: true });
            granted.addresses.push(*ip);
        }
        for v4 in &wanted.families {
            let known =
                before.iter().find(|ip| ip.is_ipv4() == *v4 && !self.owners.contains_key(ip)).copied();
            match known.or_else(|| self.choose(service, *v4)) {
                Some(ip) => {
                    self.owners.insert(ip, Owner { service: service.to_owned(), explicit: false });
                    self.chosen.0.entry(service.to_owned()).or_default().push(ip);
                    granted.addresses.push(ip);
                }
                None => {
                    let family = if *v4 { "IPv4" } else { "IPv6" };
                    let reason = format!("no {family} address left in the service CIDRs");
                    granted.faults.push(Fault::new("spec.clusterIPs", reason));
                }
            }
        }
        if !granted.addresses.is_empty() {
            self.held.insert(service.to_owned(), granted.addresses.clone());
        }
        granted
    }

    /// Starts at a place that depends on the name and takes the first free address from there. As in
    /// Kubernetes the lower part of a block is left to addresses that are asked for (KEP-3070).
    fn choose(&self, service: &str, v4: bool) -> Option<IpAddr> {
        let block = self.blocks.iter().find(|b| b.network().is_ipv4() == v4)?;
        let bits = block.max_prefix_len() - block.prefix_len();
        let size = 1u32.checked_shl(bits.into()).filter(|s| *s <= BLOCK_MAX).unwrap_or(BLOCK_MAX);
        let low = (size / 16).clamp(16, 256).min(size / 2);
        // The last one of an IPv4 block is its broadcast address, the first the network's.
        let space = size.checked_sub(low + 1).filter(|s| *s > 0)?;
        let start = (fnv(service) % u64::from(space)) as u32;
        (0..space)
            .map(|i| low + (start + i) % space)
            .filter(|offset| *offset > 0)
            .map(|offset| nth(block, offset))
            .find(|ip| !self.owners.contains_key(ip))
    }
}

fn nth(block: &IpNet, offset: u32) -> IpAddr {
    match block.network() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(offset)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(offset.into())).into(),
    }
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
