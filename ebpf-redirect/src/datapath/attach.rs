//! Attaching programs to devices, the cgroup and the network namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use abi::{EndpointEntry, VethEntry};

use super::Datapath;
use super::link::{CGROUP_PREFIX, CLSACT_SUFFIX, NETNS, detach_slot};
use super::slot::{Slot, SlotKind};
use crate::error::{AttachError, MapError, PinError};
use crate::object;
use crate::sys::{AttachType, Target};

/// Index of the loopback device, in every network namespace.
const LOOPBACK: u32 = 1;

impl Datapath {
    /// Puts both programs onto the host's end of a pod's veth and tells them whose it is. Repeating it, also
    /// with another entry (a changed identity), is fine and leaves no gap.
    ///
    /// The programs go first: without an entry they drop everything.
    pub fn attach_endpoint(&mut self, ifindex: u32, entry: &EndpointEntry) -> Result<(), AttachError> {
        self.attach_slot(Slot::new(SlotKind::PodOut, ifindex))?;
        self.attach_slot(Slot::new(SlotKind::PodIn, ifindex))?;
        self.endpoints.put(&ifindex, entry).map_err(MapError::io(object::ENDPOINTS, "add an endpoint"))?;
        if entry.netns_cookie != 0 {
            let put = self.netns.put(&entry.netns_cookie, &entry.id);
            put.map_err(MapError::io(object::NETNS, "add a network namespace"))?;
        }
        if entry.mac == [0; 6] {
            let removed = self.veths.remove(&entry.id);
            removed.map_err(MapError::io(object::VETHS, "remove a veth"))?;
        } else {
            let veth = VethEntry { ifindex, mac: entry.mac, _pad: [0; 2] };
            self.veths.put(&entry.id, &veth).map_err(MapError::io(object::VETHS, "add a veth"))?;
        }
        Ok(())
    }

    /// Forgets the endpoint behind a veth and takes the programs off. The entries go first: from then on
    /// the programs drop everything.
    pub fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.forget_endpoint(ifindex)?;
        for kind in [SlotKind::PodIn, SlotKind::PodOut] {
            detach_slot(self.pins.root(), Slot::new(kind, ifindex))?;
        }
        Ok(())
    }

    /// Removes the entries of the endpoint behind a veth.
    pub(super) fn forget_endpoint(&self, ifindex: u32) -> Result<(), MapError> {
        let entry =
            self.endpoints.get(&ifindex).map_err(MapError::io(object::ENDPOINTS, "read an endpoint"))?;
        if let Some(entry) = entry {
            // The endpoint may have another veth by now.
            let veth = self.veths.get(&entry.id).map_err(MapError::io(object::VETHS, "read a veth"))?;
            if veth.is_some_and(|veth| veth.ifindex == ifindex) {
                self.veths.remove(&entry.id).map_err(MapError::io(object::VETHS, "remove a veth"))?;
                let removed = self.netns.remove(&entry.netns_cookie);
                removed.map_err(MapError::io(object::NETNS, "remove a network namespace"))?;
            }
        }
        let removed = self.endpoints.remove(&ifindex);
        removed.map(drop).map_err(MapError::io(object::ENDPOINTS, "remove an endpoint"))
    }

    /// Endpoints by the index of their veth, as the programs know them.
    pub fn endpoints(&self) -> Result<BTreeMap<u32, EndpointEntry>, MapError> {
        self.endpoints.entries().map_err(MapError::io(object::ENDPOINTS, "list the endpoints"))
    }

    /// Puts `from_netdev` onto a device that brings packets for pods from outside.
    pub fn attach_device(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.attach_slot(Slot::new(SlotKind::DeviceIn, ifindex))
    }

    /// Takes `from_netdev` off a device.
    pub fn detach_device(&mut self, ifindex: u32) -> Result<(), AttachError> {
        detach_slot(self.pins.root(), Slot::new(SlotKind::DeviceIn, ifindex))?;
        Ok(())
    }

    /// Puts `from_node` onto the loopback device, or takes it off: whether the node's own processes are policed.
    pub fn police_node(&mut self, on: bool) -> Result<(), AttachError> {
        let slot = Slot::new(SlotKind::LoopbackIn, LOOPBACK);
        if on { self.attach_slot(slot) } else { Ok(detach_slot(self.pins.root(), slot)?) }
    }

    /// Indexes of the devices that carry `from_netdev`.
    pub fn devices(&self) -> Result<Vec<u32>, PinError> {
        let slot = |name: &String| Slot::parse(name.strip_suffix(CLSACT_SUFFIX).unwrap_or(name));
        let slots = self.pins.link_names()?.iter().filter_map(slot).collect::<Vec<_>>();
        let device = |slot: Slot| (slot.kind == SlotKind::DeviceIn).then_some(slot.ifindex);
        Ok(slots.into_iter().filter_map(device).collect())
    }

    /// Attaches the service translation to everything below `cgroup`.
    ///
    /// # Errors
    /// [`AttachError::NotCgroup2`] and what the kernel refuses.
    pub fn attach_cgroup(&mut self, cgroup: &Path) -> Result<(), AttachError> {
        let folder = File::open(cgroup).map_err(target_error(cgroup))?;
        if !crate::probe::is_cgroup2(cgroup) {
            return Err(AttachError::NotCgroup2 { path: cgroup.to_owned() });
        }
        let target = Target::Cgroup(folder.metadata().map_err(target_error(cgroup))?.ino());
        for (program, at) in object::CGROUP {
            self.attach_file(&format!("{CGROUP_PREFIX}{program}"), program, folder.as_fd(), target, at)
                .map_err(|failure| failure.at(program, cgroup.display().to_string()))?;
        }
        Ok(())
    }

    /// Attaches `steer_lookup` to this thread's network namespace.
    pub fn attach_netns(&mut self) -> Result<(), AttachError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let file = File::open(path).map_err(target_error(path))?;
        // The kernel's link info tells 32 bits of it, which is all that a namespace's inode number has.
        let target = Target::Netns(file.metadata().map_err(target_error(path))?.ino() as u32);
        let program = object::STEER_LOOKUP;
        self.attach_file(NETNS, program, file.as_fd(), target, AttachType::SkLookup)
            .map_err(|failure| failure.at(program, "the network namespace".into()))
    }
}

fn target_error(path: &Path) -> impl Fn(io::Error) -> AttachError {
    let path = path.to_owned();
    move |source| AttachError::Target { path: path.clone(), source }
}
