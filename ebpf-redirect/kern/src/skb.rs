//! The socket buffer behind a tc program: its context fields, its bytes, its mark.
//!
//! Context fields are read and written volatile: LLVM otherwise merges neighbouring accesses into wider
//! ones or into a computed offset, and the verifier refuses both.

use core::{mem::MaybeUninit, ptr};

use abi::{DropReason, mark};
use aya_ebpf::{bindings::__sk_buff, helpers::generated as helpers};

/// `TCX_NEXT`: the next program decides, or the packet goes on. The same as `TC_ACT_UNSPEC` of clsact.
pub const NEXT: i32 = -1;
/// `TCX_DROP`, `TC_ACT_SHOT`.
pub const SHOT: i32 = 2;

/// Where a packet's network header starts: pods' veths and nodes' devices carry Ethernet.
pub const ETHERNET_BYTES: u32 = 14;

/// Index of the device that the program runs on.
#[inline(always)]
pub fn ifindex(skb: *mut __sk_buff) -> u32 {
    unsafe { ptr::read_volatile(&raw const (*skb).ifindex) }
}

/// EtherType in network order, after a VLAN tag that the kernel has already taken off.
#[inline(always)]
pub fn protocol(skb: *mut __sk_buff) -> u32 {
    unsafe { ptr::read_volatile(&raw const (*skb).protocol) }
}

/// Whether the kernel took a VLAN tag off this frame.
#[inline(always)]
pub fn has_vlan_tag(skb: *mut __sk_buff) -> bool {
    unsafe { ptr::read_volatile(&raw const (*skb).vlan_present) != 0 }
}

/// Our bits of the mark.
#[inline(always)]
pub fn mark_of(skb: *mut __sk_buff) -> u32 {
    unsafe { ptr::read_volatile(&raw const (*skb).mark) & mark::MASK }
}

/// Sets our bits of the mark.
#[inline(always)]
pub fn set_mark(skb: *mut __sk_buff, bits: u32) {
    unsafe {
        let others = ptr::read_volatile(&raw const (*skb).mark) & !mark::MASK;
        ptr::write_volatile(&raw mut (*skb).mark, others | bits);
    }
}

/// Whether the frame was sent to this device's own hardware address (`PACKET_HOST`).
#[inline(always)]
pub fn is_for_host(skb: *mut __sk_buff) -> bool {
    unsafe { ptr::read_volatile(&raw const (*skb).pkt_type) == 0 }
}

/// Length of the frame in bytes; of a segmented one, of all its segments together.
#[inline(always)]
pub fn length(skb: *mut __sk_buff) -> u32 {
    unsafe { ptr::read_volatile(&raw const (*skb).len) }
}

/// Copies a `T` from `offset` of the frame, also out of paged data.
#[inline(always)]
pub fn load<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Result<T, DropReason> {
    let mut value = MaybeUninit::<T>::uninit();
    let size = size_of::<T>() as u32;
    let failed = unsafe { helpers::bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size) };
    if failed != 0 {
        return Err(DropReason::InvalidPacket);
    }
    Ok(unsafe { value.assume_init() })
}

/// Writes a `T` at `offset` of the frame; `flags` are those of `bpf_skb_store_bytes`.
#[inline(always)]
pub fn store<T>(skb: *mut __sk_buff, offset: u32, value: &T, flags: u64) -> Result<(), DropReason> {
    let (from, size) = (ptr::from_ref(value).cast(), size_of::<T>() as u32);
    let failed = unsafe { helpers::bpf_skb_store_bytes(skb.cast(), offset, from, size, flags) };
    if failed != 0 { Err(DropReason::InvalidPacket) } else { Ok(()) }
}
