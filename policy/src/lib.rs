//! The policy model and its compiler: pure, no I/O, no clock.
//!
//! [`Snapshot`] is the one input, [`CompiledPolicy`] the one output; the kernel gets its map entries and
//! the proxy its matchers from the same compilation, under one revision. Knows nothing of where objects
//! came from, of eBPF, or of any async runtime.

pub mod cases;
pub mod compiled;
pub mod explain;
pub mod identity;
pub mod l7;
pub mod model;
pub mod precedence;
pub mod snapshot;

mod compile;

pub use compile::{Compiler, compile};
pub use compiled::{CompiledPolicy, CompiledService, EndpointPolicy, IpcacheTarget, RuleRef};
pub use l7::{L7Policy, L7Verdict, RequestHead};
pub use snapshot::Snapshot;

/// The name of an IANA protocol number that policies can speak about.
pub fn proto_name(number: u8) -> &'static str {
    match number {
        abi::proto::TCP => "TCP",
        abi::proto::UDP => "UDP",
        abi::proto::SCTP => "SCTP",
        abi::proto::ICMP => "ICMP",
        abi::proto::ICMPV6 => "ICMPv6",
        _ => "ANY",
    }
}

/// The protocol of a name in any case.
pub fn proto_number(name: &str) -> Option<u8> {
    let known = [abi::proto::TCP, abi::proto::UDP, abi::proto::SCTP, abi::proto::ICMP, abi::proto::ICMPV6];
    known.into_iter().find(|number| proto_name(*number).eq_ignore_ascii_case(name))
}
