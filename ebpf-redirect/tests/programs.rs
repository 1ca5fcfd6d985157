//! The kernel programs, packet by packet: {packet, maps, verdict, maps afterwards} through
//! `BPF_PROG_TEST_RUN`. Needs root; without it each test says so and passes.
//!
//! The kernel refuses `bpf_sk_assign` in such a run, and no proxy listens here: what would go to the proxy
//! shows as a drop with PROXY_UNAVAILABLE. `HEDDLE_BPF_OBJECT` names another object to test.

#[path = "programs/accounts.rs"]
mod accounts;
#[path = "programs/connections.rs"]
mod connections;
#[path = "programs/fragments.rs"]
mod fragments;
#[path = "programs/gate.rs"]
mod gate;
#[path = "programs/icmp.rs"]
mod icmp;
#[path = "programs/kernel.rs"]
mod kernel;
#[path = "programs/netdev.rs"]
mod netdev;
#[path = "programs/packet.rs"]
mod packet;
#[path = "programs/parse.rs"]
mod parse;
#[path = "programs/peer.rs"]
mod peer;
#[path = "programs/policy.rs"]
mod policy;
