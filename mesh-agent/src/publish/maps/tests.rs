use policy::compiled::CompiledService;
use policy::{IpcacheTarget, Snapshot};

use super::*;

fn service(vip: &str, backends: usize) -> CompiledService {
    CompiledService {
        namespace: String::new(),
        name: String::new(),
        port_name: String::new(),
        vip: vip.parse().expect("an address"),
        proto: abi::proto::TCP,
        keep_vip: vip.ends_with(":80"),
        affinity_seconds: 9,
        backends: vec!["10.0.0.9:8080".parse().expect("an address"); backends],
    }
}

fn compiled(services: Vec<CompiledService>) -> CompiledPolicy {
    let target = IpcacheTarget { identity: 7, endpoint: 3, flags: 1 };
    let nets = ["10.1.0.0/16", "fd00::/64", "0.0.0.0/0"].map(|net| (net.parse().expect("a net"), target));
    CompiledPolicy { ipcache: nets.into(), services, ..CompiledPolicy::default() }
}

#[test]
fn prefixes_and_services_as_the_maps_hold_them() {
    let mut numbers = ServiceNumbers::default();
    let compiled = compiled(vec![service("10.96.0.1:80", 2), service("[fd00::1]:443", 0)]);
    let state = KernelState::new(&Snapshot::default(), &compiled, &BTreeMap::new(), &mut numbers);
    let prefixes: Vec<u32> = state.ipcache.keys().map(|key| key.prefix_len).collect();
    assert_eq!(prefixes, [64, 96, 112]);
    let key = IpcacheKey { prefix_len: 112, addr: abi::Addr::v4([10, 1, 0, 0]) };
    assert_eq!(state.ipcache[&key], IpcacheEntry { identity: 7, endpoint: 3, flags: 1, node: 0 });
    let key = ServiceKey { addr: abi::Addr::v4([10, 96, 0, 1]), port: 80u16.to_be(), proto: 6, _pad: 0 };
    let (entry, backends) = &state.services[&key];
    assert_eq!((entry.count, entry.flags, entry.affinity_seconds), (2, service_flags::KEEP_VIP, 9));
    assert_eq!(backends[0].port, 8080u16.to_be());
}

#[test]
fn a_service_keeps_its_number_over_restarts_and_neighbours() {
    let number = |services: Vec<CompiledService>, numbers: &mut ServiceNumbers| {
        let state = KernelState::new(&Snapshot::default(), &compiled(services), &BTreeMap::new(), numbers);
        state.services.iter().map(|(key, (entry, _))| (u16::from_be(key.port), entry.id)).collect::<Vec<_>>()
    };
    let mut numbers = ServiceNumbers::default();
    let alone = number(vec![service("10.96.0.1:80", 1)], &mut numbers);
    let both = number(vec![service("10.96.0.1:80", 1), service("10.96.0.1:81", 1)], &mut numbers);
    assert!(both.contains(&alone[0]));
    assert_ne!(both[0].1, both[1].1);
    let mut fresh = ServiceNumbers::default();
    assert_eq!(number(vec![service("10.96.0.1:81", 1), service("10.96.0.1:80", 1)], &mut fresh), both);
}

#[test]
fn only_pods_with_a_veth_and_a_policy_are_attached() {
    let pod = |id, name: &str| {
        let addresses = vec!["10.0.0.5".parse().expect("an address"), "fd00::5".parse().expect("an address")];
        let pod = policy::snapshot::Endpoint { id, identity: 300, addresses, ..Default::default() };
        (name.to_owned(), Arc::new(pod))
    };
    let snapshot =
        Snapshot { endpoints: [pod(1, "a"), pod(2, "b"), pod(0, "c")].into(), ..Snapshot::default() };
    let mut compiled = compiled(Vec::new());
    compiled.endpoints = [(1, Arc::default()), (2, Arc::default())].into();
    // A NetworkPolicy's ipBlock holds the one address; the other's prefix is of somebody else.
    let block = IpcacheTarget { identity: abi::IDENTITY_LOCAL_FIRST, endpoint: 1, flags: 8 };
    compiled.ipcache.insert("10.0.0.5/32".parse().expect("a net"), block);
    let link = |ifindex| Link { ifindex, mac: [2, 0, 0, 0, 0, 1], netns_cookie: 77 };
    let veths = BTreeMap::from([(1, link(40)), (9, link(41))]);
    let state = KernelState::new(&snapshot, &compiled, &veths, &mut ServiceNumbers::default());
    assert_eq!(state.endpoints.keys().copied().collect::<Vec<_>>(), [40]);
    let entry = state.endpoints[&40];
    assert_eq!((entry.id, entry.identity_v4, entry.identity_v6), (1, block.identity, 300));
    assert_eq!(entry.ipv4, abi::Addr::v4([10, 0, 0, 5]));
    assert!(!entry.ipv6.is_v4());
    assert_eq!((entry.mac, entry.netns_cookie), ([2, 0, 0, 0, 0, 1], 77));
}
