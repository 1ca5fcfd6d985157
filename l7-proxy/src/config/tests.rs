use std::net::IpAddr;

use super::persist::Store;
use super::{Config, is_newer};
use crate::wire::{ConfigUpdate, Endpoint, Prefix, Service};

fn prefix(text: &str, identity: u32) -> Prefix {
    Prefix { prefix: text.into(), identity, endpoint: 0, flags: 0 }
}

fn full() -> ConfigUpdate {
    ConfigUpdate {
        revision: 1,
        full: true,
        endpoints: vec![Endpoint { id: 1, ..Endpoint::default() }],
        services: vec![Service {
            vip: "10.96.0.1:80".into(),
            proto: 6,
            backends: vec!["10.0.0.1:80".into()],
            ..Service::default()
        }],
        ipcache: vec![
            prefix("0.0.0.0/0", 9),
            prefix("::/0", 10),
            prefix("10.0.0.0/8", 20),
            prefix("10.0.0.1/32", 30),
            prefix("fd00::/64", 40),
        ],
        ..ConfigUpdate::default()
    }
}

#[track_caller]
fn who(config: &Config, address: &str) -> Option<u32> {
    let address: IpAddr = address.parse().expect("address");
    config.ipcache.lookup(address).map(|peer| peer.identity)
}

#[test]
fn longest_prefix_wins_in_each_family() {
    let config = Config::default().apply(&full()).expect("applies");
    for (address, identity) in
        [("10.0.0.1", 30), ("10.0.0.2", 20), ("11.0.0.1", 9), ("fd00::1", 40), ("fd01::1", 10), ("::", 10)]
    {
        assert_eq!(who(&config, address), Some(identity), "{address}");
    }
    assert_eq!(who(&Config::default(), "10.0.0.1"), None);
}

#[test]
fn a_delta_leaves_the_old_configuration_as_it_was() {
    let old = Config::default().apply(&full()).expect("applies");
    let delta = ConfigUpdate {
        revision: 2,
        removed_prefixes: vec!["10.0.0.1/32".into()],
        removed_services: vec!["10.96.0.1:80/6".into(), "10.96.0.1:53/17".into()],
        removed_endpoints: vec![1],
        ..ConfigUpdate::default()
    };
    let new = old.apply(&delta).expect("applies");
    assert_eq!((old.revision, old.sizes(), who(&old, "10.0.0.1")), (1, [1, 1, 5], Some(30)));
    assert_eq!((new.revision, new.sizes(), who(&new, "10.0.0.1")), (2, [0, 0, 4], Some(20)));
    assert!(Config::default().apply(&delta).is_err(), "a delta needs a base");
}

#[test]
fn counts_in_flight_survive_a_change_of_backends() {
    let old = Config::default().apply(&full()).expect("applies");
    let vip = "10.96.0.1:80".parse().expect("address");
    let active =
        |config: &Config| std::sync::Arc::clone(&config.service(&vip).expect("there").backends[0].active);
    let mut service = full().services.remove(0);
    service.backends.push("10.0.0.2:80".into());
    let delta = ConfigUpdate { revision: 2, services: vec![service], ..ConfigUpdate::default() };
    let new = old.apply(&delta).expect("applies");
    assert!(std::sync::Arc::ptr_eq(&active(&old), &active(&new)));
}

#[test]
fn revisions_may_wrap() {
    for (a, b, newer) in
        [(2, 1, true), (1, 2, false), (1, 1, false), (1, u32::MAX, true), (u32::MAX, 1, false)]
    {
        assert_eq!(is_newer(a, b), newer, "{a} {b}");
    }
}

#[test]
fn the_disk_has_what_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(super::persist::FILE_NAME);
    let mut store = Store::new(folder.path());
    assert!(store.load().expect("nothing").is_none());
    store.save(&full()).expect("saved");
    let mut revision = 1;
    // Large enough to be merged several times.
    for round in 0..3u32 {
        revision += 1;
        let many = (0..20_000u32).map(|n| prefix(&format!("fd01::{round:x}:{n:x}/128"), 50 + round));
        let delta = ConfigUpdate { revision, ipcache: many.collect(), ..ConfigUpdate::default() };
        store.save(&delta).expect("saved");
        let loaded = Store::new(folder.path()).load().expect("loads").expect("there");
        let expected = 5 + 20_000 * (round as usize + 1);
        assert_eq!((loaded.revision, loaded.sizes()[2]), (revision, expected));
    }

    // A delta that a crash cut off was never acknowledged.
    let whole = std::fs::read(&path).expect("the file");
    let delta = ConfigUpdate { revision: 99, ..ConfigUpdate::default() };
    store.save(&delta).expect("saved");
    let longer = std::fs::read(&path).expect("the file");
    assert!(longer.len() > whole.len());
    std::fs::write(&path, &longer[..longer.len() - 1]).expect("cut");
    assert_eq!(store.load().expect("loads").expect("there").revision, revision);

    std::fs::write(&path, b"something else").expect("written");
    assert!(store.load().is_err());
}
