//! What outlives a process: taking over the links of an earlier agent, removing what belongs to devices that
//! are gone and to other versions, and the end of all of it.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::net::if_::if_indextoname;

use super::Datapath;
use super::link::{CGROUP_PREFIX, CLSACT_SUFFIX, NETNS, detach_slot};
use super::slot::{Slot, SlotKind};
use crate::error::{AttachError, MapError, PinError};
use crate::object;
use crate::pins::{self, pin_error};
use crate::sys::{self, Access};

impl Datapath {
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
                self.forget_slot(slot)?;
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
        self.forget_slot(slot)?;
        Ok(pins::remove(&self.pins.link(name))?)
    }

    fn forget_slot(&self, slot: Slot) -> Result<(), MapError> {
        match slot.kind {
            SlotKind::DeviceIn | SlotKind::LoopbackIn => Ok(()),
            SlotKind::PodIn | SlotKind::PodOut => self.forget_endpoint(slot.ifindex),
        }
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
                    self.forget_slot(slot)?;
                }
                pins::remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
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
