//! The IPv6 header and its extension headers (RFC 8200).

use abi::{Addr, DropReason};
use aya_ebpf::bindings::__sk_buff;

use super::Step;
use crate::{
    flow::{Current, Part},
    skb::{self, ETHERNET_BYTES},
};

/// Multi-byte fields in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub version_class_label: u32,
    pub payload_length: u16,
    pub next: u8,
    pub hop_limit: u8,
    pub src: [u32; 4],
    pub dst: [u32; 4],
}

/// Bytes of the header without extensions.
pub const HEADER_BYTES: u32 = 40;

/// Most extension headers followed; each kind may honestly occur once or twice.
const EXTENSIONS_MAX: u32 = 8;

mod next {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// Reads the header and its extensions into the flow.
#[inline(always)]
pub fn headers(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    let header = skb::load::<Header>(skb, ETHERNET_BYTES)?;
    if u32::from_be(header.version_class_label) >> 28 != 6 {
        return Err(DropReason::InvalidPacket);
    }
    flow.key.src = Addr(header.src);
    flow.key.dst = Addr(header.dst);
    // On the wire a mapped address has no meaning (RFC 4291 section 2.5.5.2), and ours has: it is IPv4.
    if flow.key.src.is_v4() || flow.key.dst.is_v4() {
        return Err(DropReason::InvalidPacket);
    }
    flow.hop_limit = header.hop_limit;
    let payload = u16::from_be(header.payload_length) as u32;
    flow.end = if payload == 0 { 0 } else { ETHERNET_BYTES + HEADER_BYTES + payload };
    extensions(skb, flow, header.next)
}

#[inline(always)]
fn extensions(skb: *mut __sk_buff, mut flow: Current, first: u8) -> Result<(), DropReason> {
    flow.key.proto = first;
    flow.l4 = ETHERNET_BYTES + HEADER_BYTES;
    if !is_extension(first) {
        return Ok(());
    }
    for _ in 0..EXTENSIONS_MAX {
        match parse_extension(skb) {
            Step::MORE => {}
            Step::LAST => return Ok(()),
            _ => return Err(DropReason::InvalidExtensionHeader),
        }
    }
    Err(DropReason::InvalidExtensionHeader)
}

/// The numbers that are extension headers and not protocols (RFC 7045).
#[inline(always)]
fn is_extension(kind: u8) -> bool {
    matches!(
        kind,
        next::HOP_BY_HOP
            | next::ROUTING
            | next::FRAGMENT
            | next::AUTHENTICATION
            | next::DESTINATION
            | next::MOBILITY
            | next::HIP
            | next::SHIM6
    )
}

/// Reads the extension header at `flow.l4`, whose kind is in `flow.key.proto`, and moves on. A function of
/// its own, or each combination of headers would be a path for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_extension(skb: *mut __sk_buff) -> u32 {
    let Some(mut flow) = Current::fetch() else { return Step::BAD };
    let kind = flow.key.proto;
    match kind {
        next::HOP_BY_HOP | next::ROUTING | next::DESTINATION => {
            let Ok([following, length, _, segments_left]) = skb::load::<[u8; 4]>(skb, flow.l4) else {
                return Step::BAD;
            };
            // The address that policy looks at must be the one that the packet goes to.
            if kind == next::ROUTING && segments_left != 0 {
                return Step::BAD;
            }
            flow.key.proto = following;
            flow.l4 += (length as u32 + 1) * 8;
        }
        next::FRAGMENT => {
            let Ok(header) = skb::load::<[u16; 4]>(skb, flow.l4) else { return Step::BAD };
            return fragment(flow, header);
        }
        _ => return Step::BAD,
    }
    if is_extension(flow.key.proto) { Step::MORE } else { Step::LAST }
}

/// The fragment header (RFC 8200 section 4.5). What follows it is the first fragment's alone.
#[inline(always)]
fn fragment(mut flow: Current, header: [u16; 4]) -> u32 {
    let [next_and_reserved, offset, id_high, id_low] = header;
    let [following, _] = next_and_reserved.to_ne_bytes();
    flow.fragment.src = flow.key.src;
    flow.fragment.dst = flow.key.dst;
    flow.fragment.id = (id_high as u32) << 16 | id_low as u32;
    flow.fragment.proto = following;
    flow.fragment._pad = [0; 3];
    flow.key.proto = following;
    if u16::from_be(offset) & !7 != 0 {
        flow.part = Part::Later;
        return Step::LAST;
    }
    flow.part = Part::First;
    flow.l4 += 8;
    if is_extension(following) { Step::MORE } else { Step::LAST }
}
