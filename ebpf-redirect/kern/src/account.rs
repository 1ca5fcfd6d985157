//! Who has how many connections in the map, and whether there may be another: one pod must not take the room
//! of all others. The count is of what is in the map, alive or not: the loader's garbage collection takes off
//! what it removes, and puts right what two CPUs at once or a revoked connection have put wrong.

use core::arch::asm;

use abi::{DropReason, account, ipcache_flags};
use aya_ebpf::bindings::BPF_NOEXIST;

use crate::{
    flow::{self, Current},
    maps::{OPENED, RELEASED},
};

/// The account of the connection that the packet in hand opens.
#[inline(always)]
pub fn of_sender(flow: Current) -> u32 {
    if flow.src.endpoint != 0 {
        account::of(flow.src.endpoint, true)
    } else if flow.src.flags & ipcache_flags::LOCAL_NODE != 0 {
        account::NODE
    } else {
        account::of(flow.dst.endpoint, false)
    }
}

/// Whether an account may open one more connection.
///
/// # Errors
/// [`DropReason::NotConfigured`].
#[inline(always)]
pub fn may_open(account: u32) -> Result<bool, DropReason> {
    // What is left when nobody else may open any is for the node's probes.
    if account == account::NODE {
        return Ok(true);
    }
    let allowed = abi::connections_allowed(flow::config()?.room(), held(account::TOTAL));
    Ok(held(account) < allowed)
}

/// Connections of an account that are in the map.
#[inline(always)]
fn held(account: u32) -> u64 {
    let opened = match OPENED.get_ptr(&account) {
        Some(opened) => unsafe { core::ptr::read_volatile(opened) },
        None => 0,
    };
    let released = match RELEASED.get_ptr(&account) {
        Some(released) => unsafe { core::ptr::read_volatile(released) },
        None => 0,
    };
    // The loader may put it right to a little too few.
    let held = opened.wrapping_sub(released);
    if held as i64 >= 0 { held } else { 0 }
}

/// Charges a new connection.
#[inline(always)]
pub fn charge(account: u32) {
    add_one(account);
    add_one(account::TOTAL);
}

#[inline(always)]
fn add_one(account: u32) {
    if OPENED.get_ptr_mut(&account).is_none() {
        // Another CPU may have done it; without room for it the garbage collection still counts.
        let _ = OPENED.insert(&account, &0, BPF_NOEXIST as u64);
    }
    if let Some(opened) = OPENED.get_ptr_mut(&account) {
        // The oldest instruction set, which the object keeps to, has no atomics that Rust would use.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) opened, in(reg) 1_u64) };
    }
}
