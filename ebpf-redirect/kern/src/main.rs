//! The kernel programs of Heddle, one file per hook. They decide each packet of each pod by
//! [`abi::decide`], lift the connections that need layer 7 into the node's proxy, and translate
//! services when sockets connect. Everything they know comes from maps that the agent fills.
//!
//! Built for `bpfel-unknown-none` by `cargo xtask bpf`; the object beside this folder is what the agent
//! loads. No kfuncs and no helper newer than Linux 6.1.
// One instruction: the atomic addition of the account module.
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

mod account;
mod conn;
mod connect;
mod decide;
mod endpoint;
mod event;
mod flow;
mod from_netdev;
mod from_node;
mod from_pod;
mod getpeername;
mod icmp;
mod maps;
mod node;
mod parse;
mod path;
mod recvmsg;
mod revalidate;
mod sendmsg;
mod service;
mod skb;
mod steer;
mod steer_lookup;
mod to_pod;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The helpers that look up and assign sockets are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
