//! Policies, syncs and garbage, against the kernel's maps.

use std::collections::{BTreeMap, BTreeSet};

use abi::{
    BackendEntry, BackendKey, ConnEntry, ConnKey, Direction, PolicyEntry, PolicyKey, ServiceEntry,
    ServiceKey, proto, verdict_code,
};
use aya::maps::{HashMap, Map, MapData};
use ebpf_redirect::{Changes, MapError};

use super::net::*;

fn pinned<K: aya::Pod, V: aya::Pod>(node: &Node, name: &str) -> HashMap<MapData, K, V> {
    let data = MapData::from_pin(node.pin_root.join("maps").join(name)).unwrap();
    Map::HashMap(data).try_into().unwrap()
}

#[test]
fn policies_are_swapped_only_if_they_differ() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.open();
    let inner = || pinned::<u32, u32>(&node, "POLICY").get(&5, 0).ok();
    let allow = policy(IDENTITY_B, Direction::Egress, verdict_code::ALLOW);
    let deny = policy(IDENTITY_B, Direction::Egress, verdict_code::DENY);
    assert_eq!(inner(), None);
    assert!(datapath.set_policy(5, &allow).unwrap());
    let first = inner();
    assert!(!datapath.set_policy(5, &allow).unwrap());
    assert_eq!(inner(), first);
    assert!(datapath.set_policy(5, &deny).unwrap());
    let second = inner();
    assert_ne!(second, first);
    drop(datapath);

    let mut datapath = node.open();
    assert!(!datapath.set_policy(5, &deny).unwrap(), "read back after a restart");
    assert_eq!(inner(), second);
    assert_eq!(datapath.policy(5).unwrap(), Some(deny.clone()));
    assert_eq!(datapath.set_policies([(5, &deny), (6, &allow), (7, &allow)]).unwrap(), 2);
    assert_eq!(datapath.retain_policies(&BTreeSet::from([6])).unwrap(), 2);
    assert_eq!(inner(), None);
    assert_eq!(datapath.policy(6).unwrap(), Some(allow.clone()));
    datapath.remove_policy(6).unwrap();
    datapath.remove_policy(6).unwrap();
    assert_eq!(datapath.policy(6).unwrap(), None);
    assert!(datapath.set_policy(6, &allow).unwrap(), "what was removed is not remembered");
    assert!(datapath.set_policy(6, &Policy::new()).unwrap(), "an empty policy is one");
    assert_eq!(datapath.policy(6).unwrap(), Some(Policy::new()));
}

#[test]
fn a_policy_too_large_is_refused_whole() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.open();
    let entry = PolicyEntry { precedence: 1, rule: 1, verdict: verdict_code::ALLOW, _pad: [0; 3] };
    let of_size = |size: u32| -> Policy {
        (0..size).map(|id| (PolicyKey::peer(id, Direction::Egress), entry)).collect()
    };
    let largest = of_size(abi::MAX_POLICY_ENTRIES);
    assert!(datapath.set_policy(1, &largest).unwrap());
    let refused = datapath.set_policies([(2, &largest), (1, &of_size(abi::MAX_POLICY_ENTRIES + 1))]);
    assert!(matches!(refused, Err(MapError::Full { map: "POLICY", .. })), "{refused:?}");
    assert_eq!(datapath.policy(2).unwrap(), None);
    assert_eq!(datapath.policy(1).unwrap().unwrap().len(), largest.len());
}

#[test]
fn ipcache_is_synced_by_difference() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.open();
    let mut wanted = ipcache();
    let all = wanted.len();
    assert_eq!(datapath.sync_ipcache(&wanted).unwrap(), Changes { written: all, removed: 0 });
    assert_eq!(datapath.sync_ipcache(&wanted).unwrap(), Changes::default());
    drop(datapath);
    let mut datapath = node.open();
    assert_eq!(datapath.sync_ipcache(&wanted).unwrap(), Changes::default(), "read back after a restart");
    wanted.remove(&host(POD_A[0])).unwrap();
    wanted.get_mut(&host(POD_B[0])).unwrap().identity = 4711;
    assert_eq!(datapath.sync_ipcache(&wanted).unwrap(), Changes { written: 1, removed: 1 });
    drop(datapath);
    let mut datapath = node.open();
    assert_eq!(datapath.sync_ipcache(&wanted).unwrap(), Changes::default());
}

#[test]
fn services_are_synced_with_their_backends() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.open();
    let key =
        |last| ServiceKey { addr: addr(&format!("10.96.0.{last}")), port: 80, proto: proto::TCP, _pad: 0 };
    let entry = |id| ServiceEntry { id, ..ServiceEntry::default() };
    let backend = |last| BackendEntry { addr: addr(&format!("10.1.0.{last}")), port: 8080, _pad: 0 };
    let mut wanted = BTreeMap::from([
        (key(1), (entry(1), vec![backend(1), backend(2), backend(3)])),
        (key(2), (entry(2), vec![])),
    ]);
    assert_eq!(datapath.sync_services(&wanted).unwrap(), Changes { written: 5, removed: 0 });
    let services = pinned::<ServiceKey, ServiceEntry>(&node, "SERVICES");
    let backends = pinned::<BackendKey, BackendEntry>(&node, "BACKENDS");
    assert_eq!(services.get(&key(1), 0).unwrap().count, 3);
    assert_eq!(backends.get(&BackendKey { service: 1, slot: 2 }, 0).unwrap(), backend(3));

    wanted.get_mut(&key(1)).unwrap().1.remove(1);
    assert_eq!(datapath.sync_services(&wanted).unwrap(), Changes { written: 2, removed: 1 });
    assert_eq!(services.get(&key(1), 0).unwrap().count, 2);
    assert_eq!(backends.get(&BackendKey { service: 1, slot: 1 }, 0).unwrap(), backend(3));
    assert!(backends.get(&BackendKey { service: 1, slot: 2 }, 0).is_err());

    // Another service takes the number over.
    wanted.remove(&key(1));
    wanted.insert(key(3), (entry(1), vec![backend(9)]));
    drop(datapath);
    let mut datapath = node.open();
    assert_eq!(datapath.sync_services(&wanted).unwrap(), Changes { written: 2, removed: 2 });
    assert!(services.get(&key(1), 0).is_err());
    assert_eq!(backends.get(&BackendKey { service: 1, slot: 0 }, 0).unwrap(), backend(9));
    assert_eq!(datapath.sync_services(&BTreeMap::new()).unwrap(), Changes { written: 0, removed: 3 });
    assert_eq!((services.keys().count(), backends.keys().count()), (0, 0));
}

#[test]
fn dead_connections_are_removed() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.open();
    let mut connections = pinned::<ConnKey, ConnEntry>(&node, "CONNECTIONS");
    let count: u32 = 5000;
    for number in 0..count {
        let key = ConnKey { src: abi::Addr([0, 0, 0, number]), proto: proto::UDP, ..ConnKey::default() };
        // Every fifth lives on.
        let expires_ns = if number % 5 == 0 { u64::MAX } else { 1 };
        connections.insert(key, ConnEntry { expires_ns, ..ConnEntry::default() }, 0).unwrap();
    }
    let report = datapath.collect_garbage().unwrap();
    assert!(report.complete, "{report:?}");
    assert_eq!((report.examined, report.removed), (5000, 4000));
    assert_eq!(connections.keys().count(), 1000);
    assert_eq!(datapath.counters().unwrap().connections, 1000);
    assert_eq!(datapath.collect_garbage().unwrap().removed, 0);
}
