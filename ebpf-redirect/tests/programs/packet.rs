//! Frames, byte by byte. Checksums are left out: the programs do not look at them.

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An Ethernet frame.
pub(crate) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What an IP header may have beside addresses.
#[derive(Clone, Default)]
pub(crate) struct Ip {
    /// IPv4 options; a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers, each as (its number, its bytes with the first one to be filled in).
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// Flags and offset of the IPv4 header.
    pub(crate) fragment: u16,
    pub(crate) id: u16,
    /// 64 if 0.
    pub(crate) hop_limit: u8,
}

/// A frame with an IP packet of the family of the addresses.
pub(crate) fn packet(src: &str, dst: &str, proto: u8, payload: &[u8]) -> Vec<u8> {
    packet_with(&Ip::default(), src, dst, proto, payload)
}

pub(crate) fn packet_with(with: &Ip, src: &str, dst: &str, proto: u8, payload: &[u8]) -> Vec<u8> {
    let hop_limit = if with.hop_limit == 0 { 64 } else { with.hop_limit };
    match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = 20 + with.options.len();
            let total = (header + payload.len()) as u16;
            let mut bytes = vec![0x40 | (header / 4) as u8, 0];
            bytes.extend(total.to_be_bytes());
            bytes.extend(with.id.to_be_bytes());
            bytes.extend(with.fragment.to_be_bytes());
            bytes.extend([hop_limit, proto, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend(&with.options);
            bytes.extend(payload);
            ethernet(0x0800, &bytes)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut body = Vec::new();
            for (index, (_, header)) in with.extensions.iter().enumerate() {
                let mut header = header.clone();
                header[0] = with.extensions.get(index + 1).map_or(proto, |(number, _)| *number);
                body.extend(header);
            }
            body.extend(payload);
            let mut bytes = vec![0x60, 0, 0, 0];
            bytes.extend((body.len() as u16).to_be_bytes());
            bytes.extend([with.extensions.first().map_or(proto, |(number, _)| *number), hop_limit]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend(body);
            ethernet(0x86dd, &bytes)
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// A TCP header.
pub(crate) fn tcp_header(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(sport.to_be_bytes());
    bytes.extend(dport.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

/// A UDP header and eight bytes.
pub(crate) fn udp_header(sport: u16, dport: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(sport.to_be_bytes());
    bytes.extend(dport.to_be_bytes());
    bytes.extend(16u16.to_be_bytes());
    bytes.extend([0; 10]);
    bytes
}

pub(crate) fn tcp(src: (&str, u16), dst: (&str, u16), flags: u8) -> Vec<u8> {
    packet(src.0, dst.0, TCP, &tcp_header(src.1, dst.1, flags))
}

pub(crate) fn udp(src: (&str, u16), dst: (&str, u16)) -> Vec<u8> {
    packet(src.0, dst.0, UDP, &udp_header(src.1, dst.1))
}

pub(crate) fn sctp(src: (&str, u16), dst: (&str, u16)) -> Vec<u8> {
    packet(src.0, dst.0, SCTP, &udp_header(src.1, dst.1))
}

/// ICMP or ICMPv6 by the family of the addresses.
pub(crate) fn icmp_proto(address: &str) -> u8 {
    if ip(address).is_ipv4() { 1 } else { 58 }
}

/// An ICMP message with an identifier.
pub(crate) fn icmp(src: &str, dst: &str, icmp_type: u8, code: u8, id: u16) -> Vec<u8> {
    packet(src, dst, icmp_proto(src), &icmp_header(icmp_type, code, id))
}

pub(crate) fn icmp_header(icmp_type: u8, code: u8, id: u16) -> Vec<u8> {
    let mut bytes = vec![icmp_type, code, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// An ICMP error about a frame made by the functions above.
pub(crate) fn icmp_error(src: &str, dst: &str, icmp_type: u8, about: &[u8]) -> Vec<u8> {
    let mut bytes = vec![icmp_type, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(&about[14..]);
    packet(src, dst, icmp_proto(src), &bytes)
}

/// An ARP request of `sender`.
pub(crate) fn arp(sender: &str, target: &str) -> Vec<u8> {
    let (IpAddr::V4(sender), IpAddr::V4(target)) = (ip(sender), ip(target)) else { panic!("ARP is IPv4") };
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2];
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    ethernet(0x0806, &bytes)
}

/// Puts a VLAN tag into a frame.
pub(crate) fn tagged(tag: u16, frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0, 5]);
    bytes.extend(&frame[12..]);
    bytes
}
