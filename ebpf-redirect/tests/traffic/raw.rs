//! Frames that no socket of a pod would send.
#![allow(unsafe_code)] // AF_PACKET has no safe wrapper

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use abi::{Direction, DropReason, verdict_code};
use nix::libc;

use super::net::*;

/// Sends a frame out of pod A's device, as it is.
fn send(node: &Node, frame: &[u8]) {
    node.within("a", || {
        // SAFETY: plain system calls; the address is a whole sockaddr_ll and lives across the call.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
            assert!(fd >= 0);
            let socket = OwnedFd::from_raw_fd(fd);
            let mut to: libc::sockaddr_ll = std::mem::zeroed();
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_ifindex = ifindex("eth0") as i32;
            let sent = libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            );
            assert_eq!(sent, frame.len() as isize);
        }
    });
}

#[test]
fn vlan_tags_are_dropped() {
    let Some(node) = Node::new() else { return };
    let datapath = node.start(&policy(IDENTITY_B, Direction::Egress, verdict_code::ALLOW));
    let dropped = || datapath.counters().unwrap().drops_for(DropReason::UnsupportedL2);
    let payload = [0; 46];
    for (number, tags) in [&[0x8100u16][..], &[0x88a8], &[0x88a8, 0x8100]].into_iter().enumerate() {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 9]);
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 5]);
        }
        frame.extend(0x0800u16.to_be_bytes());
        frame.extend(payload);
        send(&node, &frame);
        // The veth's receive side runs when the sender's system call ends, or soon after.
        for _ in 0..100 {
            if dropped() > number as u64 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(dropped(), number as u64 + 1, "{tags:#x?}");
    }
}
