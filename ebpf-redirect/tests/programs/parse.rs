//! What cannot be parsed, or may not be sent at all.

use abi::{DropReason, mark};

use crate::kernel::{A, B, BLOCKED, CIDR, Kernel, NODE, OTHER_NODE, TUNNEL_PORT, Verdict, WORLD};
use crate::packet::*;

const PASS: Verdict = Verdict::Pass(mark::DIRECT);
/// Neighbour discovery and ARP stay on the link: nobody routes them by mark.
const UNMARKED: Verdict = Verdict::Pass(0);

#[track_caller]
fn check(rows: Vec<(&str, Vec<u8>, Verdict)>) {
    let Some(mut kernel) = Kernel::start() else { return };
    for (name, packet, want) in rows {
        let got = kernel.run("from_pod", &packet);
        assert_eq!(got.verdict, want, "{name}: {:?}", got.events);
    }
}

fn drop(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn protocols_of_both_families() {
    check(vec![
        ("tcp", tcp((A.v4, 1000), (B.v4, 80), SYN), PASS),
        ("tcp, v6", tcp((A.v6, 1000), (B.v6, 80), SYN), PASS),
        ("udp", udp((A.v4, 1000), (B.v4, 53)), PASS),
        ("udp, v6", udp((A.v6, 1000), (B.v6, 53)), PASS),
        ("sctp", sctp((A.v4, 1000), (B.v4, 53)), PASS),
        ("sctp, v6", sctp((A.v6, 1000), (B.v6, 53)), PASS),
        ("echo", icmp(A.v4, B.v4, 8, 0, 7), PASS),
        ("echo, v6", icmp(A.v6, B.v6, 128, 0, 7), PASS),
        ("gre", packet(A.v4, B.v4, 47, &[0; 16]), drop(DropReason::UnsupportedL4)),
        ("no next header", packet(A.v6, B.v6, 59, &[0; 16]), drop(DropReason::UnsupportedL4)),
        ("icmp in v6", packet(A.v6, B.v6, 1, &icmp_header(8, 0, 1)), drop(DropReason::UnsupportedL4)),
        ("icmpv6 in v4", packet(A.v4, B.v4, 58, &icmp_header(128, 0, 1)), drop(DropReason::UnsupportedL4)),
    ]);
}

#[test]
fn link_layer() {
    let inner = tcp((A.v4, 1000), (B.v4, 80), SYN);
    check(vec![
        ("802.1Q", tagged(0x8100, &inner), drop(DropReason::UnsupportedL2)),
        ("802.1ad", tagged(0x88a8, &inner), drop(DropReason::UnsupportedL2)),
        ("two tags", tagged(0x8100, &tagged(0x88a8, &inner)), drop(DropReason::UnsupportedL2)),
        ("MPLS", ethernet(0x8847, &[0; 40]), drop(DropReason::UnsupportedL2)),
        ("802.3 length", ethernet(0x0040, &[0; 64]), drop(DropReason::UnsupportedL2)),
        ("arp", arp(A.v4, "169.254.1.1"), UNMARKED),
        ("arp probe", arp("0.0.0.0", A.v4), UNMARKED),
        ("arp for another", arp(B.v4, "169.254.1.1"), drop(DropReason::InvalidSourceIp)),
    ]);
}

#[test]
fn ipv4_headers() {
    let segment = tcp_header(1000, 80, SYN);
    let with = |options: &[u8]| {
        packet_with(&Ip { options: options.to_vec(), ..Ip::default() }, A.v4, B.v4, TCP, &segment)
    };
    let mutated = |at: usize, value: u8| {
        let mut frame = tcp((A.v4, 1000), (B.v4, 80), SYN);
        frame[at] = value;
        frame
    };
    let mut short = tcp((A.v4, 1000), (B.v4, 80), SYN);
    short.truncate(14 + 20 + 10);
    check(vec![
        ("record route", with(&[7, 7, 4, 0, 0, 0, 0, 0]), PASS),
        ("no-ops, then a time stamp", with(&[1, 1, 1, 68, 8, 5, 0, 0, 0, 0, 0, 0]), PASS),
        ("40 bytes of no-ops", with(&[1; 40]), PASS),
        ("loose source route", with(&[131, 7, 4, 10, 9, 9, 9, 0]), drop(DropReason::InvalidPacket)),
        ("strict source route", with(&[1, 137, 7, 4, 10, 9, 9, 9]), drop(DropReason::InvalidPacket)),
        ("option without length", with(&[7, 0, 0, 0]), drop(DropReason::InvalidPacket)),
        ("version 5", mutated(14, 0x55), drop(DropReason::InvalidPacket)),
        ("header of 16 bytes", mutated(14, 0x44), drop(DropReason::InvalidPacket)),
        ("total length below the header", mutated(17, 19), drop(DropReason::InvalidPacket)),
        ("total length cuts TCP", mutated(17, 30), drop(DropReason::InvalidPacket)),
        ("frame cuts TCP", short, drop(DropReason::InvalidPacket)),
        ("TCP header of 16 bytes", mutated(14 + 20 + 12, 0x40), drop(DropReason::InvalidPacket)),
        ("SYN and FIN", tcp((A.v4, 1), (B.v4, 80), SYN | FIN), drop(DropReason::InvalidPacket)),
        ("SYN and RST", tcp((A.v4, 1), (B.v4, 80), SYN | RST), drop(DropReason::InvalidPacket)),
    ]);
}

#[test]
fn ipv6_extension_headers() {
    let segment = tcp_header(1000, 80, SYN);
    let with = |extensions: Vec<(u8, Vec<u8>)>| {
        packet_with(&Ip { extensions, ..Ip::default() }, A.v6, B.v6, TCP, &segment)
    };
    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let long = [vec![0, 1, 1, 12], vec![0; 12]].concat();
    let visited = vec![0, 2, 4, 0, 0, 0, 0, 0].into_iter().chain([0; 16]).collect::<Vec<u8>>();
    let mut ahead = visited.clone();
    ahead[3] = 1;
    let bad = || drop(DropReason::InvalidExtensionHeader);
    check(vec![
        ("hop by hop", with(vec![(0, padding.clone())]), PASS),
        (
            "all that are followed",
            with(vec![(0, padding.clone()), (60, long.clone()), (43, visited), (60, long)]),
            PASS,
        ),
        ("eight", with(vec![(60, padding.clone()); 8]), PASS),
        ("nine", with(vec![(60, padding.clone()); 9]), bad()),
        ("routing ahead", with(vec![(43, ahead)]), bad()),
        ("authentication", with(vec![(51, padding.clone())]), bad()),
        ("mobility", with(vec![(135, padding.clone())]), bad()),
        (
            "beyond the frame",
            with(vec![(60, vec![0, 255, 1, 4, 0, 0, 0, 0])]),
            drop(DropReason::InvalidPacket),
        ),
    ]);
}

#[test]
fn ipv6_headers() {
    let mut version = tcp((A.v6, 1000), (B.v6, 80), SYN);
    version[14] = 0x40;
    let mut short = tcp((A.v6, 1000), (B.v6, 80), SYN);
    short[14 + 5] = 12;
    check(vec![
        ("version 4", version, drop(DropReason::InvalidPacket)),
        ("payload cuts TCP", short, drop(DropReason::InvalidPacket)),
        ("mapped destination", tcp((A.v6, 1), ("::ffff:10.1.0.2", 80), SYN), drop(DropReason::InvalidPacket)),
    ]);
}

#[test]
fn sources() {
    let nd = |hop_limit, src: &str, dst: &str, icmp_type| {
        packet_with(
            &Ip { hop_limit, ..Ip::default() },
            src,
            dst,
            58,
            &[&[icmp_type, 0, 0, 0][..], &[0; 20]].concat(),
        )
    };
    let spoofed = || drop(DropReason::InvalidSourceIp);
    check(vec![
        ("another pod's", tcp((B.v4, 1), (A.v4, 80), SYN), spoofed()),
        ("another pod's, v6", tcp((B.v6, 1), (A.v6, 80), SYN), spoofed()),
        ("the world's", udp((WORLD, 1), (B.v4, 80)), spoofed()),
        ("link-local TCP", tcp(("fe80::5", 1), (B.v6, 80), SYN), spoofed()),
        ("link-local ping", icmp("fe80::5", B.v6, 128, 0, 1), spoofed()),
        ("solicitation", nd(255, "fe80::5", "ff02::1:ff00:1", 135), UNMARKED),
        ("solicitation, own address", nd(255, A.v6, "fe80::1", 135), UNMARKED),
        ("duplicate address detection", nd(255, "::", "ff02::1:ff00:1", 135), UNMARKED),
        ("advertisement", nd(255, "fe80::5", "fe80::1", 136), UNMARKED),
        ("solicitation, routed", nd(254, "fe80::5", "ff02::1:ff00:1", 135), spoofed()),
        ("solicitation to a pod", nd(255, "fe80::5", B.v6, 135), spoofed()),
        ("listener report", nd(1, "fe80::5", "ff02::16", 143), UNMARKED),
        ("router advertisement", nd(255, "fe80::5", "ff02::1", 134), drop(DropReason::InvalidPacket)),
        ("redirect", nd(255, A.v6, "fe80::1", 137), drop(DropReason::InvalidPacket)),
    ]);
}

#[test]
fn tunnel_ports() {
    let to = |dst| udp((A.v4, 1000), (dst, TUNNEL_PORT));
    check(vec![
        ("of this node", to(NODE), drop(DropReason::TunnelPort)),
        ("of another node", to(OTHER_NODE), drop(DropReason::TunnelPort)),
        ("of the world", to(WORLD), drop(DropReason::TunnelPort)),
        ("a pod's own", to(B.v4), PASS),
        ("of a pod inside an ipBlock", to(BLOCKED), PASS),
        ("of a CIDR of a policy", to(CIDR), drop(DropReason::TunnelPort)),
        ("tcp", tcp((A.v4, 1000), (OTHER_NODE, TUNNEL_PORT), SYN), PASS),
    ]);
}

#[test]
fn unknown_veth_and_unconfigured_node() {
    let Some(mut kernel) = Kernel::start() else { return };
    let syn = tcp((A.v4, 1000), (B.v4, 80), SYN);
    kernel.at_unknown();
    for program in ["from_pod", "to_pod"] {
        kernel.expect(program, &syn, drop(DropReason::UnknownEndpoint));
    }
    kernel.at(A);
    for version in [0, abi::ABI_VERSION + 1] {
        kernel.config.abi_version = version;
        kernel.configure();
        assert_eq!(kernel.run("from_pod", &syn).verdict, drop(DropReason::NotConfigured));
        assert_eq!(kernel.run_marked("to_pod", &syn, mark::DIRECT).verdict, drop(DropReason::NotConfigured));
        // The node's own traffic does not depend on the agent.
        assert_eq!(kernel.run("from_netdev", &syn).verdict, UNMARKED);
    }
}
