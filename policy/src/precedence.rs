//! Precedence of policy map entries: one integer, the larger wins.
//!
//! ```text
//! 31    24 23                     8 7       0
//! +-------+------------------------+---------+
//! | tier  | 65535 - priority       | class   |
//! +-------+------------------------+---------+
//! ```
//! Tier: 3 Admin, 2 Normal, 1 Baseline, 0 Default (built in). Together with the priority it is the band.
//! The class orders what one band says of the same traffic; numbers between are free for later.

use crate::model::Tier;

/// What an entry does, in the order of strength within one band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// On to the next tier (not used yet).
    Pass = 0,
    Allow = 1,
    /// To the proxy for visibility or mesh membership.
    RedirectLenient = 64,
    /// To the proxy because a rule demands it.
    RedirectStrict = 128,
    /// What a refused policy denies: all that rules of the band allow.
    Refuse = 192,
    /// The node to its own pods, directly: stronger than a redirect or a refused policy, so that probes
    /// depend neither on the proxy nor on somebody's typing error; weaker than a rule that denies it.
    AllowLocalhost = 224,
    Deny = 255,
}

/// The precedence of a class in a band.
pub const fn of(tier: Tier, priority: u16, class: Class) -> u32 {
    ((tier as u32) << 24) | (((u16::MAX - priority) as u32) << 8) | class as u32
}
