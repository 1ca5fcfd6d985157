//! One link or filter at a time: made, given new code in place, or taken off.
//!
//! A link lives as long as its pin. Its name says what it is: `pod_<ifindex>_in` and `_out`,
//! `dev_<ifindex>_in`, `lo_1_in`, `netns`, `cgroup_<program>`. A clsact filter has no link; the program pinned under the
//! same name with `_tc` behind it marks that the filter is there.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{Link as _, ProgramError, tc};
use nix::net::if_::if_indextoname;

use super::load::with_causes;
use super::slot::Slot;
use super::{Attachment, Datapath};
use crate::error::{AttachError, PinError};
use crate::pins::{self, pin_error};
use crate::sys::{self, Access, AttachType, Target};

/// Priority and handle of our clsact filters: first of all, and always found again.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);
/// Behind the name of the pin that stands for a clsact filter.
pub(super) const CLSACT_SUFFIX: &str = "_tc";

pub(super) const NETNS: &str = "netns";
pub(super) const CGROUP_PREFIX: &str = "cgroup_";

impl Datapath {
    pub(super) fn attach_slot(&mut self, slot: Slot) -> Result<(), AttachError> {
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

    pub(super) fn attach_file(
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

    pub(super) fn attach_filter(&mut self, slot: Slot) -> Result<(), AttachError> {
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
}
/// Takes a program off its device and removes the pin; what is not there is fine.
pub(super) fn detach_slot(root: &Path, slot: Slot) -> Result<(), PinError> {
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
pub(super) enum LinkFailure {
    Io(io::Error),
    Pin(PinError),
}

impl From<io::Error> for LinkFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl LinkFailure {
    pub(super) fn at(self, program: &'static str, target: String) -> AttachError {
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
