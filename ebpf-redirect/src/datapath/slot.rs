//! The places of programs at devices, and the names of their pins.

use aya::programs::tc::TcAttachType;

use crate::object;
use crate::sys::AttachType;

/// A program on one side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) kind: SlotKind,
    pub(super) ifindex: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotKind {
    PodIn,
    PodOut,
    DeviceIn,
    LoopbackIn,
}

impl Slot {
    pub(super) fn new(kind: SlotKind, ifindex: u32) -> Self {
        Self { kind, ifindex }
    }

    pub(super) fn pin_name(self) -> String {
        match self.kind {
            SlotKind::PodIn => format!("pod_{}_in", self.ifindex),
            SlotKind::PodOut => format!("pod_{}_out", self.ifindex),
            SlotKind::DeviceIn => format!("dev_{}_in", self.ifindex),
            SlotKind::LoopbackIn => format!("lo_{}_in", self.ifindex),
        }
    }

    /// The slot behind a pin's name (without the suffix of clsact).
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let (kind, ifindex, side) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = match (kind, side, parts.next()) {
            ("pod", "in", None) => SlotKind::PodIn,
            ("pod", "out", None) => SlotKind::PodOut,
            ("dev", "in", None) => SlotKind::DeviceIn,
            ("lo", "in", None) => SlotKind::LoopbackIn,
            _ => return None,
        };
        Some(Self { kind, ifindex: ifindex.parse().ok()? })
    }

    pub(super) fn program(self) -> &'static str {
        match self.kind {
            SlotKind::PodIn => object::FROM_POD,
            SlotKind::PodOut => object::TO_POD,
            SlotKind::DeviceIn => object::FROM_NETDEV,
            SlotKind::LoopbackIn => object::FROM_NODE,
        }
    }

    pub(super) fn tcx(self) -> AttachType {
        match self.kind {
            SlotKind::PodIn | SlotKind::DeviceIn | SlotKind::LoopbackIn => AttachType::TcxIngress,
            SlotKind::PodOut => AttachType::TcxEgress,
        }
    }

    pub(super) fn clsact(self) -> TcAttachType {
        match self.kind {
            SlotKind::PodIn | SlotKind::DeviceIn | SlotKind::LoopbackIn => TcAttachType::Ingress,
            SlotKind::PodOut => TcAttachType::Egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_slots() {
        for (kind, name) in [
            (SlotKind::PodIn, "pod_7_in"),
            (SlotKind::PodOut, "pod_7_out"),
            (SlotKind::DeviceIn, "dev_7_in"),
            (SlotKind::LoopbackIn, "lo_7_in"),
        ] {
            let slot = Slot::new(kind, 7);
            assert_eq!(slot.pin_name(), name);
            assert_eq!(Slot::parse(name), Some(slot));
        }
        for name in ["netns", "pod_7", "pod_x_in", "dev_7_out", "pod_7_in_tc", "cgroup_connect4", ""] {
            assert_eq!(Slot::parse(name), None, "{name}");
        }
    }
}
