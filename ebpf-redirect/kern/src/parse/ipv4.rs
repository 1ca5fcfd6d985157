//! The IPv4 header (RFC 791) with its options.

use abi::{Addr, DropReason};
use aya_ebpf::bindings::__sk_buff;

use super::Step;
use crate::{
    flow::{Current, Part},
    skb::{self, ETHERNET_BYTES},
};

/// Without options; multi-byte fields in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub version_ihl: u8,
    tos: u8,
    pub total_length: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub proto: u8,
    checksum: u16,
    pub src: u32,
    pub dst: u32,
}

impl Header {
    /// Length of the header in bytes.
    #[inline(always)]
    pub fn bytes(&self) -> u32 {
        (self.version_ihl as u32 & 15) * 4
    }
}

/// Bytes of the header without options.
pub const HEADER_BYTES: u32 = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Options that name the next hop themselves (RFC 791 section 3.1): the address that policy looks at
/// would not be the one that the packet goes to.
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
const OPTION_BYTES_MAX: u32 = 40;

/// The mapped form of an IPv4 address.
#[inline(always)]
pub fn mapped(address: u32) -> Addr {
    Addr([0, 0, Addr::V4_WORD, address])
}

/// Makes a cleared address (as [`Current::begin`] leaves those of the key) the mapped form: its zeros written
/// again would be a call of memset for each packet.
#[inline(always)]
fn map_into(cleared: &mut Addr, address: u32) {
    cleared.0[2] = Addr::V4_WORD;
    cleared.0[3] = address;
}

/// Reads the header into the flow.
#[inline(always)]
pub fn header(skb: *mut __sk_buff, mut flow: Current) -> Result<(), DropReason> {
    let header = skb::load::<Header>(skb, ETHERNET_BYTES)?;
    let bytes = header.bytes();
    let total = u16::from_be(header.total_length) as u32;
    if header.version_ihl >> 4 != 4 || bytes < 20 || (total != 0 && total < bytes) {
        return Err(DropReason::InvalidPacket);
    }
    map_into(&mut flow.key.src, header.src);
    map_into(&mut flow.key.dst, header.dst);
    flow.key.proto = header.proto;
    flow.hop_limit = header.ttl;
    flow.l4 = ETHERNET_BYTES + bytes;
    flow.end = if total == 0 { 0 } else { ETHERNET_BYTES + total };
    let fragment = u16::from_be(header.fragment);
    if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        flow.part = if fragment & FRAGMENT_OFFSET == 0 { Part::First } else { Part::Later };
        flow.fragment.src = flow.key.src;
        flow.fragment.dst = flow.key.dst;
        flow.fragment.id = header.id as u32;
        flow.fragment.proto = header.proto;
        flow.fragment._pad = [0; 3];
    }
    if bytes > 20 { refuse_source_routes(skb, flow, bytes - 20) } else { Ok(()) }
}

/// Walks the options, `length` bytes of them.
#[inline(always)]
fn refuse_source_routes(skb: *mut __sk_buff, mut flow: Current, length: u32) -> Result<(), DropReason> {
    flow.option = 0;
    // Each turn moves on by at least one byte, so this bound is never the end of a valid walk.
    for _ in 0..OPTION_BYTES_MAX {
        if flow.option >= length {
            return Ok(());
        }
        match parse_option(skb) {
            Step::MORE => {}
            Step::LAST => return Ok(()),
            _ => return Err(DropReason::InvalidPacket),
        }
    }
    Ok(())
}

/// Looks at the option at `flow.option` and moves on. A function of its own, or each combination of
/// options would be a path for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_option(skb: *mut __sk_buff) -> u32 {
    let Some(mut flow) = Current::fetch() else { return Step::BAD };
    let at = ETHERNET_BYTES + 20 + flow.option;
    let Ok(kind) = skb::load::<u8>(skb, at) else { return Step::BAD };
    match kind {
        0 => return Step::LAST,
        1 => flow.option += 1,
        LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Step::BAD,
        _ => match skb::load::<u8>(skb, at + 1) {
            Ok(size) if size >= 2 => flow.option += size as u32,
            _ => return Step::BAD,
        },
    }
    Step::MORE
}
