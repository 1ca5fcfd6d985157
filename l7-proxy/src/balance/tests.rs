use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use super::pick;
use crate::config::{Backend, Service};

fn service(count: u16, affinity: bool) -> Service {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let backends = (1..=count).map(|port| Backend { address: address(port), active: Default::default() });
    Service { vip: address(80), affinity, backends: backends.collect() }
}

fn client(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

#[test]
fn none_and_one() {
    assert!(pick(&service(0, false), client(1)).is_none());
    assert!(pick(&service(0, true), client(1)).is_none());
    assert_eq!(pick(&service(1, false), client(1)).map(|b| b.address.port()), Some(1));
}

#[test]
fn the_busy_one_of_two_is_left_alone() {
    let service = service(2, false);
    service.backends[0].active.store(5, Relaxed);
    assert!((0..100).all(|_| pick(&service, client(1)).expect("one").address.port() == 2));
}

#[test]
fn equal_ones_get_equal_shares() {
    let service = service(4, false);
    let mut shares = BTreeMap::new();
    for _ in 0..4000 {
        *shares.entry(pick(&service, client(1)).expect("one").address).or_insert(0) += 1;
    }
    assert!(shares.len() == 4 && shares.values().all(|share| (700..1300).contains(share)), "{shares:?}");
}

#[test]
fn affinity_moves_only_clients_of_the_lost_backend() {
    let mut service = service(5, true);
    let of = |service: &Service, last| pick(service, client(last)).expect("one").address;
    let before: Vec<_> = (0..=255).map(|last| of(&service, last)).collect();
    let lost = service.backends.remove(2).address;
    for (last, old) in (0..=255).zip(before) {
        let new = of(&service, last);
        assert!(new == old || old == lost);
    }
}
