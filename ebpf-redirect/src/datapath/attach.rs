//! Attaching programs to devices, the cgroup and the network namespace, and taking over what an earlier
//! agent attached.
//!
//! A link lives as long as its pin. Its name says what it is: `pod_<ifindex>_in` and `_out`,
//! `dev_<ifindex>_in`, `netns`, `cgroup_<program>`. A clsact filter has no link; the program pinned under the
//! same name with `_tc` behind it marks that the filter is there.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use abi::EndpointEntry;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle};
use aya::programs::{Link as _, ProgramError, tc};
use nix::net::if_::if_indextoname;

use super::load::with_causes;
use super::{Attachment, Datapath};
use crate::error::{AttachError, MapError, PinError};
use crate::object;
use crate::pins::{self, pin_error};
use crate::sys::{self, Access, AttachType, Target};

/// Priority and handle of our clsact filters: first of all, and always found again.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);
const CLSACT_SUFFIX: &str = "_tc";

const NETNS: &str = "netns";
const CGROUP_PREFIX: &str = "cgroup_";

/// A program on one side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    kind: SlotKind,
    ifindex: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotKind {
    PodIn,
    PodOut,
    DeviceIn,
}

impl Slot {
    fn new(kind: SlotKind, ifindex: u32) -> Self {
        Self { kind, ifindex }
    }

    fn pin_name(self) -> String {
        match self.kind {
            SlotKind::PodIn => format!("pod_{}_in", self.ifindex),
            SlotKind::PodOut => format!("pod_{}_out", self.ifindex),
            SlotKind::DeviceIn => format!("dev_{}_in", self.ifindex),
        }
    }

    /// The slot behind a pin's name (without the suffix of clsact).
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let (kind, ifindex, side) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = match (kind, side, parts.next()) {
            ("pod", "in", None) => SlotKind::PodIn,
            ("pod", "out", None) => SlotKind::PodOut,
            ("dev", "in", None) => SlotKind::DeviceIn,
            _ => return None,
        };
        Some(Self { kind, ifindex: ifindex.parse().ok()? })
    }

    fn program(self) -> &'static str {
        match self.kind {
            SlotKind::PodIn => object::FROM_POD,
            SlotKind::PodOut => object::TO_POD,
            SlotKind::DeviceIn => object::FROM_NETDEV,
        }
    }

    fn tcx(self) -> AttachType {
        match self.kind {
            SlotKind::PodIn | SlotKind::DeviceIn => AttachType::TcxIngress,
            SlotKind::PodOut => AttachType::TcxEgress,
        }
    }

    fn clsact(self) -> TcAttachType {
        match self.kind {
            SlotKind::PodIn | SlotKind::DeviceIn => TcAttachType::Ingress,
            SlotKind::PodOut => TcAttachType::Egress,
        }
    }
}

impl Datapath {
    /// Puts both programs onto the host's end of a pod's veth and tells them whose it is. Repeating it, also
    /// with another entry (a changed identity), is fine and leaves no gap.
    ///
    /// The programs go first: without an entry they drop everything.
    pub fn attach_endpoint(&mut self, ifindex: u32, entry: &EndpointEntry) -> Result<(), AttachError> {
        self.attach_slot(Slot::new(SlotKind::PodOut, ifindex))?;
        self.attach_slot(Slot::new(SlotKind::PodIn, ifindex))?;
        self.endpoints.put(&ifindex, entry).map_err(MapError::io(object::ENDPOINTS, "add an endpoint"))?;
        Ok(())
    }

    /// Forgets the endpoint behind a veth and takes the programs off. The entry goes first: from then on
    /// they drop everything.
    pub fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.endpoints.remove(&ifindex).map_err(MapError::io(object::ENDPOINTS, "remove an endpoint"))?;
        for kind in [SlotKind::PodIn, SlotKind::PodOut] {
            detach_slot(self.pins.root(), Slot::new(kind, ifindex))?;
        }
        Ok(())
    }

    /// Endpoints by the index of their veth, as the programs know them.
    pub fn endpoints(&self) -> Result<std::collections::BTreeMap<u32, EndpointEntry>, MapError> {
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

    /// Takes over the links of an earlier agent: new code for those that live, an end for those whose
    /// device, cgroup or namespace is gone.
    pub(super) fn adopt(&mut self) -> Result<(), AttachError> {
        for name in self.pins.link_names()? {
            if let Some(slot) = name.strip_suffix(CLSACT_SUFFIX).and_then(Slot::parse) {
                self.adopt_filter(slot, &name)?;
                continue;
            }
            let program = match name.strip_prefix(CGROUP_PREFIX) {
                Some(hook) => {
                    object::CGROUP.iter().find(|(program, _)| *program == hook).map(|(name, _)| *name)
                }
                None if name == NETNS => Some(object::STEER_LOOKUP),
                None => Slot::parse(&name).map(Slot::program),
            };
            let path = self.pins.link(&name);
            match program {
                Some(program) => self.adopt_link(program, &name)?,
                // A link of a program that this version no longer has, or the rest of a failed pin.
                None => pins::remove(&path)?,
            }
        }
        Ok(())
    }

    fn adopt_link(&mut self, program: &'static str, name: &str) -> Result<(), AttachError> {
        let path = self.pins.link(name);
        let link = sys::obj_get(&path, Access::ReadWrite).map_err(pin_error("open", &path))?;
        let target = sys::link_target(link.as_fd()).map_err(pin_error("look at", &path))?;
        if target.is_gone() {
            tracing::debug!(name, "removing a link whose target is gone");
            if let Some(slot) = Slot::parse(name) {
                self.forget_endpoint(slot)?;
            }
            return Ok(pins::remove(&path)?);
        }
        let update = || sys::link_update(link.as_fd(), self.programs.fd(program)?);
        update().map_err(|source| AttachError::Link { program, target: name.to_owned(), source })
    }

    fn adopt_filter(&mut self, slot: Slot, name: &str) -> Result<(), AttachError> {
        if if_indextoname(slot.ifindex).is_ok() {
            return self.attach_filter(slot);
        }
        self.forget_endpoint(slot)?;
        Ok(pins::remove(&self.pins.link(name))?)
    }

    fn forget_endpoint(&self, slot: Slot) -> Result<(), MapError> {
        if slot.kind == SlotKind::DeviceIn {
            return Ok(());
        }
        let removed = self.endpoints.remove(&slot.ifindex);
        removed.map(drop).map_err(MapError::io(object::ENDPOINTS, "remove an endpoint"))
    }

    /// Removes links whose device is gone, and their endpoints; returns how many.
    pub(super) fn remove_stale(&mut self) -> Result<usize, AttachError> {
        let mut removed = 0;
        for name in self.pins.link_names()? {
            let path = self.pins.link(&name);
            let (gone, slot) = match name.strip_suffix(CLSACT_SUFFIX).and_then(Slot::parse) {
                Some(slot) => (if_indextoname(slot.ifindex).is_err(), Some(slot)),
                None => {
                    let link = sys::obj_get(&path, Access::ReadWrite).map_err(pin_error("open", &path))?;
                    let target = sys::link_target(link.as_fd()).map_err(pin_error("look at", &path))?;
                    (target.is_gone(), Slot::parse(&name))
                }
            };
            if gone {
                if let Some(slot) = slot {
                    self.forget_endpoint(slot)?;
                }
                pins::remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn attach_slot(&mut self, slot: Slot) -> Result<(), AttachError> {
        if if_indextoname(slot.ifindex).is_err() {
            return Err(AttachError::NoDevice { ifindex: slot.ifindex });
        }
        if self.attachment == Attachment::Clsact {
            return self.attach_filter(slot);
        }
        let (program, at) = (slot.program(), slot.tcx());
        let create = |program: BorrowedFd<'_>| sys::link_device(program, slot.ifindex, at);
        self.ensure_link(&slot.pin_name(), program, Target::Device(slot.ifindex), create)
            .map_err(|failure| failure.at(program, format!("device {}", slot.ifindex)))
    }

    fn attach_file(
        &self,
        name: &str,
        program: &'static str,
        file: BorrowedFd<'_>,
        target: Target,
        at: AttachType,
    ) -> Result<(), LinkFailure> {
        self.ensure_link(name, program, target, |program| sys::link_file(program, file, at))
    }

    /// Makes sure that the link pinned as `name` attaches `program` to `target`. One that does already gets
    /// the new code in place; otherwise the new link is made first and takes the pin from the old one.
    fn ensure_link(
        &self,
        name: &str,
        program: &'static str,
        target: Target,
        create: impl FnOnce(BorrowedFd<'_>) -> io::Result<std::os::fd::OwnedFd>,
    ) -> Result<(), LinkFailure> {
        let path = self.pins.link(name);
        let program = self.programs.fd(program)?;
        match sys::obj_get(&path, Access::ReadWrite) {
            Ok(link) if sys::link_target(link.as_fd())? == target => {
                return Ok(sys::link_update(link.as_fd(), program)?);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(LinkFailure::Pin(pin_error("open", &path)(error))),
        }
        let link = create(program)?;
        pins::replace(link.as_fd(), &path).map_err(LinkFailure::Pin)
    }

    fn attach_filter(&mut self, slot: Slot) -> Result<(), AttachError> {
        let (program, ifindex) = (slot.program(), slot.ifindex);
        let clsact = |reason: String| AttachError::Clsact { program, ifindex, reason };
        let name = device_name(ifindex)?;
        match tc::qdisc_add_clsact(&name) {
            // EEXIST: it has one.
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(nix::libc::EEXIST) => {}
            other => other.map_err(|error| clsact(with_causes(&error)))?,
        }
        let marker = self.pins.link(&format!("{}{CLSACT_SUFFIX}", slot.pin_name()));
        let old = SchedClassifierLink::attached(&name, slot.clsact(), CLSACT_PRIORITY, CLSACT_HANDLE, None)
            .map_err(|_| AttachError::NoDevice { ifindex })?;
        let classifier = self.programs.classifier(program).map_err(|error| clsact(error.to_string()))?;
        let attached = if marker.exists() {
            classifier.attach_to_link(old)
        } else {
            // The handle is only a description so far; dropping it would detach a filter of that number.
            std::mem::forget(old);
            let options =
                NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, ..NlOptions::default() };
            classifier.attach_with_options(&name, slot.clsact(), TcAttachOptions::Netlink(options))
        };
        let link = attached.and_then(|id| classifier.take_link(id)).map_err(|e| clsact(with_causes(&e)))?;
        // aya detaches a filter when its handle is dropped; this one stays.
        std::mem::forget(link);
        let fd = self.programs.fd(program).map_err(pin_error("pin", &marker))?;
        Ok(pins::replace(fd, &marker)?)
    }

    /// Ends enforcement on this node: detaches every program and removes every pin.
    ///
    /// # Errors
    /// The first failure; what could be removed until then is.
    pub fn detach_all(self) -> Result<(), PinError> {
        let root = self.pins.root().to_owned();
        drop(self);
        remove_pins(&root)
    }

    /// Removes what agents of other ABI versions left beside this one's folder, and so detaches their
    /// programs. To be called once this version's programs are attached everywhere.
    pub fn retire_other_versions(&self) -> Result<(), PinError> {
        let Some(parent) = self.pins.root().parent() else { return Ok(()) };
        for entry in fs::read_dir(parent).map_err(pin_error("list", parent))? {
            let path = entry.map_err(pin_error("list", parent))?.path();
            let version = path.file_name().and_then(|name| name.to_str()).and_then(|n| n.strip_prefix('v'));
            if path != self.pins.root() && version.is_some_and(|v| v.parse::<u32>().is_ok()) {
                tracing::info!(folder = %path.display(), "removing the programs of another version");
                remove_pins(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes every pin below `root`, and with them the programs from wherever they are attached. Needs neither
/// an open [`Datapath`] nor an object that loads.
pub fn remove_pins(root: &Path) -> Result<(), PinError> {
    if !root.exists() {
        return Ok(());
    }
    for name in pins::link_names(root).unwrap_or_default() {
        match name.strip_suffix(CLSACT_SUFFIX).and_then(Slot::parse) {
            Some(slot) => detach_slot(root, slot)?,
            None => pins::detach(&root.join("links").join(name))?,
        }
    }
    pins::remove_all(root)
}

fn detach_slot(root: &Path, slot: Slot) -> Result<(), PinError> {
    let links = root.join("links");
    let name = slot.pin_name();
    pins::detach(&links.join(&name))?;
    let marker = links.join(format!("{name}{CLSACT_SUFFIX}"));
    if marker.exists() {
        // A device that is gone took its filters along.
        if let Ok(device) = device_name(slot.ifindex) {
            let filter =
                SchedClassifierLink::attached(&device, slot.clsact(), CLSACT_PRIORITY, CLSACT_HANDLE, None);
            let detached = filter.map_err(ProgramError::from).and_then(|link| link.detach());
            detached.map_err(|error| pin_error("detach the filter of", &marker)(io::Error::other(error)))?;
        }
        pins::remove(&marker)?;
    }
    Ok(())
}

/// Why a link could not be made, before it is known how to call its target.
enum LinkFailure {
    Io(io::Error),
    Pin(PinError),
}

impl From<io::Error> for LinkFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl LinkFailure {
    fn at(self, program: &'static str, target: String) -> AttachError {
        match self {
            Self::Io(source) => AttachError::Link { program, target, source },
            Self::Pin(error) => error.into(),
        }
    }
}

fn device_name(ifindex: u32) -> Result<String, AttachError> {
    let name = if_indextoname(ifindex).map_err(|_| AttachError::NoDevice { ifindex })?;
    Ok(name.to_string_lossy().into_owned())
}

fn target_error(path: &Path) -> impl Fn(io::Error) -> AttachError {
    let path = path.to_owned();
    move |source| AttachError::Target { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_slots() {
        for (kind, name) in
            [(SlotKind::PodIn, "pod_7_in"), (SlotKind::PodOut, "pod_7_out"), (SlotKind::DeviceIn, "dev_7_in")]
        {
            let slot = Slot::new(kind, 7);
            assert_eq!(slot.pin_name(), name);
            assert_eq!(Slot::parse(name), Some(slot));
        }
        for name in ["netns", "pod_7", "pod_x_in", "dev_7_out", "pod_7_in_tc", "cgroup_connect4", ""] {
            assert_eq!(Slot::parse(name), None, "{name}");
        }
    }
}
