//! Who can be a peer: identities with their labels, and what each address belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use abi::{
    IDENTITY_HOST, IDENTITY_KUBE_APISERVER, IDENTITY_REMOTE_NODE, IDENTITY_UNKNOWN, IDENTITY_UNMANAGED,
    IDENTITY_WORLD, IDENTITY_WORLD_IPV4, IDENTITY_WORLD_IPV6, ipcache_flags,
};
use ipnet::IpNet;

use super::Sourced;
use crate::compiled::IpcacheTarget;
use crate::identity::{self, LocalIdentities};
use crate::model::{self, CidrPeer, Entity, Peer};
use crate::snapshot::{Labels, NamedPort, Settings, Snapshot};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) table: BTreeMap<u32, PeerInfo>,
    pub(super) ipcache: BTreeMap<IpNet, IpcacheTarget>,
}

/// What rules ask of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PeerInfo {
    pub(super) labels: Arc<Labels>,
    /// Of an address outside the cluster: the block that stands for it.
    pub(super) cidr: Vec<IpNet>,
    /// Of a pod: the `ipBlock`s that its address is in.
    pub(super) blocks: BTreeSet<CidrPeer>,
    /// Of a pod.
    pub(super) named_ports: BTreeSet<(String, u8, u16)>,
}

impl Peers {
    pub(super) fn new(snapshot: &Snapshot, rules: &[Sourced<'_>], local: &mut LocalIdentities) -> Self {
        let cidrs: BTreeSet<&CidrPeer> = rules.iter().flat_map(|r| cidrs(&r.rule.peers)).collect();
        let blocks: Vec<&CidrPeer> = cidrs.iter().filter(|c| c.pods).copied().collect();
        let pod_cidrs: Vec<IpNet> =
            snapshot.nodes.values().flat_map(|n| n.pod_cidrs.iter().copied()).collect();

        // Names of all that needs a node-local number, first; then the numbers.
        let mut names = BTreeSet::new();
        let prefixes: BTreeSet<IpNet> = cidrs
            .iter()
            .flat_map(|c| c.except.iter().chain([&c.cidr]).copied())
            .filter(|net| net.prefix_len() > 0 && !pod_cidrs.iter().any(|pods| pods.contains(net)))
            .collect();
        names.extend(prefixes.iter().map(prefix_name));
        names.extend(snapshot.settings.kube_apiserver.iter().map(apiserver_name));
        for endpoint in snapshot.endpoints.values().filter(|e| !e.host_network) {
            for address in &endpoint.addresses {
                names.extend(block_name(endpoint.identity, &covering(&blocks, *address)));
            }
        }
        local.keep(&names);

        let mut peers = Self::default();
        peers.add_reserved(snapshot);
        peers.add_prefixes(&snapshot.settings, &prefixes, local);
        for net in pod_cidrs {
            peers.ipcache.insert(net.trunc(), target(IDENTITY_UNMANAGED, 0, ipcache_flags::POD));
        }
        peers.add_services(snapshot);
        peers.add_nodes(snapshot, local);
        peers.add_pods(snapshot, &blocks, local);
        peers
    }

    pub(super) fn identities(&self) -> BTreeMap<u32, Arc<Labels>> {
        self.table.iter().map(|(number, info)| (*number, info.labels.clone())).collect()
    }

    /// The identities that peers of a rule stand for; `None`: any.
    pub(super) fn resolve(&self, peers: &model::Peers) -> Option<BTreeSet<u32>> {
        let model::Peers::Of(list) = peers else { return None };
        if list.contains(&Peer::Entity(Entity::All)) {
            return None;
        }
        let chosen = self.table.iter().filter(|(_, info)| info.is_any_of(peers));
        Some(chosen.map(|(number, _)| *number).collect())
    }

    fn add(&mut self, number: u32, labels: Labels) -> &mut PeerInfo {
        let info = self.table.entry(number).or_default();
        info.labels = Arc::new(labels);
        info
    }

    fn add_reserved(&mut self, snapshot: &Snapshot) {
        for number in identity::reserved_numbers() {
            self.add(number, identity::reserved_labels(number).unwrap_or_default());
        }
        let local = snapshot.nodes.get(&snapshot.node);
        if local.is_some_and(|node| node.kube_apiserver) {
            let mut labels = identity::reserved_labels(IDENTITY_HOST).unwrap_or_default();
            labels.insert("reserved:kube-apiserver".into(), String::new());
            self.add(IDENTITY_HOST, labels);
        }
        let (v4, v6) = world(&snapshot.settings);
        for (net, number) in [("0.0.0.0/0", v4), ("::/0", v6)] {
            let Ok(net) = net.parse::<IpNet>() else { continue };
            self.ipcache.insert(net, target(number, 0, 0));
            self.table.entry(number).or_default().cidr.push(net);
        }
    }

    fn add_prefixes(&mut self, settings: &Settings, prefixes: &BTreeSet<IpNet>, local: &LocalIdentities) {
        for net in prefixes {
            let Some(number) = local.number(&prefix_name(net)) else { continue };
            self.add(number, outside_labels(settings, *net)).cidr = vec![*net];
            self.ipcache.insert(*net, target(number, 0, 0));
        }
        for address in &settings.kube_apiserver {
            let Some(number) = local.number(&apiserver_name(address)) else { continue };
            let net = IpNet::from(*address);
            let mut labels = outside_labels(settings, net);
            labels.insert("reserved:kube-apiserver".into(), String::new());
            self.add(number, labels).cidr = vec![net];
            self.ipcache.insert(net, target(number, 0, 0));
        }
    }

    fn add_services(&mut self, snapshot: &Snapshot) {
        for address in snapshot.services.values().flat_map(|s| &s.cluster_ips) {
            let entry = target(IDENTITY_UNKNOWN, 0, ipcache_flags::SERVICE_VIP);
            self.ipcache.insert(IpNet::from(*address), entry);
        }
    }

    fn add_nodes(&mut self, snapshot: &Snapshot, local: &LocalIdentities) {
        let apiservers = &snapshot.settings.kube_apiserver;
        for (name, node) in &snapshot.nodes {
            for address in &node.addresses {
                let api = node.kube_apiserver || apiservers.contains(address);
                let (number, flags) = if *name == snapshot.node {
                    (IDENTITY_HOST, ipcache_flags::LOCAL_NODE)
                } else if api {
                    (IDENTITY_KUBE_APISERVER, ipcache_flags::REMOTE_NODE)
                } else {
                    (IDENTITY_REMOTE_NODE, ipcache_flags::REMOTE_NODE)
                };
                self.ipcache.insert(IpNet::from(*address), target(number, 0, flags));
                if number == IDENTITY_HOST && api {
                    let mut labels = (*self.table.entry(number).or_default().labels).clone();
                    labels.insert("reserved:kube-apiserver".into(), String::new());
                    self.add(number, labels);
                }
                // The address is the node's: what it would be outside the cluster is nobody.
                if let Some(outside) = local.number(&apiserver_name(address)) {
                    self.table.remove(&outside);
                }
            }
        }
    }

    fn add_pods(&mut self, snapshot: &Snapshot, blocks: &[&CidrPeer], local: &LocalIdentities) {
        for endpoint in snapshot.endpoints.values().filter(|e| !e.host_network) {
            let ports = endpoint.named_ports.iter();
            let ports: Vec<_> =
                ports.map(|p: &NamedPort| (p.name.to_ascii_lowercase(), p.proto, p.port)).collect();
            let mut numbers = vec![(endpoint.identity, Vec::new())];
            for address in &endpoint.addresses {
                let covering = covering(blocks, *address);
                let derived = block_name(endpoint.identity, &covering).and_then(|n| local.number(&n));
                let number = derived.unwrap_or(endpoint.identity);
                numbers.push((number, covering));
                self.ipcache.insert(IpNet::from(*address), target(number, endpoint.id, ipcache_flags::POD));
            }
            for (number, covering) in numbers {
                let info = self.table.entry(number).or_default();
                info.labels = endpoint.identity_labels.clone();
                info.named_ports.extend(ports.iter().cloned());
                if number != endpoint.identity {
                    info.blocks = covering.into_iter().cloned().collect();
                }
            }
        }
    }
}

impl PeerInfo {
    /// Whether a rule with these peers means it.
    pub(super) fn is_any_of(&self, peers: &model::Peers) -> bool {
        match peers {
            model::Peers::Any => true,
            model::Peers::Of(list) => list.iter().any(|peer| self.is(peer)),
        }
    }

    fn is(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Labels(selector) => selector.matches(&self.labels),
            Peer::Entity(entity) => self.is_entity(*entity),
            Peer::Cidr(block) => {
                let inside =
                    |net: &IpNet| block.cidr.contains(net) && !block.except.iter().any(|e| e.contains(net));
                self.cidr.iter().any(inside) || self.blocks.contains(block)
            }
        }
    }

    fn is_entity(&self, entity: Entity) -> bool {
        let reserved = |name: &str| self.labels.contains_key(&format!("reserved:{name}"));
        match entity {
            Entity::All => true,
            Entity::None => false,
            Entity::World => reserved("world") || reserved("world-ipv4") || reserved("world-ipv6"),
            Entity::Cluster => {
                let inside =
                    ["host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"];
                inside.into_iter().any(reserved)
                    || self.labels.contains_key(&format!("k8s:{}", model::CLUSTER_LABEL))
            }
            other => reserved(other.name()),
        }
    }
}

fn cidrs(peers: &model::Peers) -> Vec<&CidrPeer> {
    let list: &[Peer] = match peers {
        model::Peers::Any => &[],
        model::Peers::Of(list) => list,
    };
    let cidrs = list.iter().map(|peer| match peer {
        Peer::Cidr(cidr) => Some(cidr),
        _ => None,
    });
    cidrs.flatten().collect()
}

fn target(identity: u32, endpoint: u32, flags: u32) -> IpcacheTarget {
    IpcacheTarget { identity, endpoint, flags }
}

/// The identities of IPv4 and IPv6 addresses that nothing is known of.
pub(crate) fn world(settings: &Settings) -> (u32, u32) {
    if settings.ipv4_only {
        (IDENTITY_WORLD, IDENTITY_WORLD)
    } else {
        (IDENTITY_WORLD_IPV4, IDENTITY_WORLD_IPV6)
    }
}

/// Labels of a block of addresses outside the cluster.
fn outside_labels(settings: &Settings, net: IpNet) -> Labels {
    let (v4, v6) = world(settings);
    let world = if net.addr().is_ipv4() { v4 } else { v6 };
    let mut labels = identity::reserved_labels(world).unwrap_or_default();
    labels.insert(format!("cidr:{net}"), String::new());
    labels
}

fn prefix_name(net: &IpNet) -> String {
    format!("cidr:{net}")
}

fn apiserver_name(address: &IpAddr) -> String {
    format!("kube-apiserver:{address}")
}

/// The blocks that an address is in.
fn covering<'a>(blocks: &[&'a CidrPeer], address: IpAddr) -> Vec<&'a CidrPeer> {
    let net = IpNet::from(address);
    let covers =
        |b: &&&CidrPeer| b.cidr.contains(&net) && !b.except.iter().any(|except| except.contains(&net));
    blocks.iter().filter(covers).copied().collect()
}

/// The name of "pods of this identity inside these blocks".
fn block_name(identity: u32, blocks: &[&CidrPeer]) -> Option<String> {
    if blocks.is_empty() {
        return None;
    }
    let blocks: Vec<String> = blocks
        .iter()
        .map(|b| {
            let except: Vec<String> = b.except.iter().map(IpNet::to_string).collect();
            format!("{}-[{}]", b.cidr, except.join(","))
        })
        .collect();
    Some(format!("pod:{identity}:{}", blocks.join(";")))
}
