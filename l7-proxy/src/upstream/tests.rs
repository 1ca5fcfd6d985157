use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use abi::{PORT_EGRESS, PORT_INGRESS};

use super::{Face, Ports, face};
use crate::config::Peer;
use crate::kernel::ConnectionRecord;
use crate::settings::Bind;

#[test]
fn whose_address() {
    let client: IpAddr = "10.0.0.1".parse().expect("address");
    let target: SocketAddr = "10.0.0.2:80".parse().expect("address");
    let itself: SocketAddr = "10.0.0.1:80".parse().expect("address");
    let local = Face::LocalClient(client);
    let remote = Face::RemoteClient(client);
    // A pod is one by its flag: inside an ipBlock its identity is of the same range as a CIDR's.
    let pod = abi::ipcache_flags::POD;
    for (src_endpoint, identity, flags, target, expected) in [
        (1, 300, pod, target, local),
        (1, abi::IDENTITY_UNMANAGED, pod, target, local),
        (1, abi::IDENTITY_LOCAL_FIRST, pod, target, local),
        (1, 300, pod, itself, Face::Node),
        (1, abi::IDENTITY_WORLD, 0, target, Face::Node),
        (1, abi::IDENTITY_REMOTE_NODE, abi::ipcache_flags::REMOTE_NODE, target, Face::Node),
        (1, abi::IDENTITY_HOST, abi::ipcache_flags::LOCAL_NODE, target, Face::Node),
        (1, abi::IDENTITY_LOCAL_FIRST, 0, target, Face::Node),
        (0, 300, pod, target, remote),
    ] {
        let record = ConnectionRecord {
            src_identity: 200,
            dst_identity: identity,
            src_endpoint,
            dst_endpoint: 0,
            vip: false,
            ingress: src_endpoint == 0,
            revision: 1,
        };
        let peer = Peer { identity, endpoint: 0, flags };
        let got = face(Bind::Transparent, &record, client, target, peer);
        assert_eq!(got, expected, "{src_endpoint} {identity} {flags} {target}");
        assert_eq!(face(Bind::Loopback, &record, client, target, peer), Face::Node);
    }
}

#[test]
fn workers_share_the_ranges() {
    let client: IpAddr = "10.0.0.1".parse().expect("address");
    for (face, (first, last)) in
        [(Face::LocalClient(client), PORT_EGRESS), (Face::RemoteClient(client), PORT_INGRESS)]
    {
        let mut all = BTreeSet::new();
        for index in 0..3 {
            let ports = Ports::new(index, 3);
            let own: BTreeSet<u16> = (0..3000).map(|_| ports.next(face)).collect();
            assert!(all.is_disjoint(&own));
            all.extend(own);
        }
        assert_eq!(all, (first..=last).collect());
    }
    assert_eq!(Ports::new(0, 1).next(Face::Node), 0);
}
