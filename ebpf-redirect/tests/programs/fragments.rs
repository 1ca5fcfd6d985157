//! IP fragments: the first is decided, the others follow it.

use abi::{Direction, DropReason, PolicyKey, mark};

use crate::kernel::{A, B, Kernel, Rule, Verdict};
use crate::packet::*;

const PASS: Verdict = Verdict::Pass(mark::DIRECT);
const MORE: u16 = 0x2000;

fn v4(id: u16, fragment: u16, proto: u8, payload: &[u8]) -> Vec<u8> {
    packet_with(&Ip { id, fragment, ..Ip::default() }, A.v4, B.v4, proto, payload)
}

/// `offset` in units of eight bytes.
fn v6(id: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0, 0];
    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
    header.extend([0, 0, 0, id]);
    packet_with(&Ip { extensions: vec![(44, header)], ..Ip::default() }, A.v6, B.v6, UDP, payload)
}

fn ports_only(kernel: &mut Kernel) {
    kernel.policy(
        A,
        &[
            (PolicyKey::lookup(0, Direction::Egress, UDP, 53), Rule::Allow(1)),
            (PolicyKey::lookup(0, Direction::Egress, 1, 8), Rule::Allow(2)),
        ],
    );
}

#[test]
fn later_ones_follow_the_first() {
    let Some(mut kernel) = Kernel::start() else { return };
    ports_only(&mut kernel);
    let missing = || Verdict::Drop(DropReason::FragmentNotFound);
    let denied = || Verdict::Drop(DropReason::PolicyDenied);
    let rows = [
        ("later without first", v4(1, 3, UDP, &[0; 16]), missing()),
        ("first", v4(1, MORE, UDP, &udp_header(9, 53)), PASS),
        ("middle", v4(1, MORE | 3, UDP, &[0; 16]), PASS),
        ("last", v4(1, 5, UDP, &[0; 16]), PASS),
        ("of another datagram", v4(2, 5, UDP, &[0; 16]), missing()),
        ("of another protocol", v4(1, 5, TCP, &[0; 16]), missing()),
        ("denied first", v4(3, MORE, UDP, &udp_header(9, 54)), denied()),
        ("its last", v4(3, 5, UDP, &[0; 16]), denied()),
        ("first ping", v4(4, MORE, 1, &icmp_header(8, 0, 7)), PASS),
        ("last ping", v4(4, 5, 1, &[0; 16]), PASS),
        ("first without ports", v4(5, MORE, UDP, &[0; 4]), Verdict::Drop(DropReason::InvalidPacket)),
        ("v6, later without first", v6(1, 3, false, &[0; 16]), missing()),
        ("v6, first", v6(1, 0, true, &udp_header(9, 53)), PASS),
        ("v6, last", v6(1, 3, false, &[0; 16]), PASS),
        ("v6, denied first", v6(2, 0, true, &udp_header(9, 54)), denied()),
        ("v6, its last", v6(2, 3, false, &[0; 16]), denied()),
        ("v6, atomic", v6(3, 0, false, &udp_header(9, 53)), PASS),
    ];
    for (name, packet, want) in rows {
        let outcome = kernel.run("from_pod", &packet);
        assert_eq!(outcome.verdict, want, "{name}: {:?}", outcome.events);
    }
}

#[test]
fn a_fragment_is_never_the_proxys() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Strict(1))]);
    let refused = || Verdict::Drop(DropReason::FragmentRedirect);
    kernel.expect("from_pod", &v4(1, MORE, TCP, &tcp_header(9, 80, ACK)), refused());
    kernel.expect("from_pod", &v4(1, 3, TCP, &[0; 16]), refused());
}
