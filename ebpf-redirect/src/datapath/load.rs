//! Loading: the object into the kernel, its maps from their pins or onto them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use aya::programs::{CgroupSockAddr, ProgramError, SchedClassifier, SkLookup};
use aya::{Ebpf, EbpfLoader, Pod};

use super::Attachment;
use crate::error::{OpenError, PinError, VERIFIER_LOG_LINES};
use crate::map::Table;
use crate::object;
use crate::pins::{self, Pins, Share, pin_error};
use crate::sys::{self, Access};

/// The loaded programs. Dropping them leaves what is attached and pinned as it is.
pub(super) struct Programs(Ebpf);

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.programs().map(|(name, _)| name)).finish()
    }
}

impl Programs {
    /// Loads every program, adopting pinned maps, and pins all of them.
    pub(super) fn load(pins: &Pins, proxy_gid: u32) -> Result<Self, OpenError> {
        let paths: Vec<(&str, PathBuf)> = object::MAPS.iter().map(|name| (*name, pins.map(name))).collect();
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let ebpf =
            loader.load(object::OBJECT).map_err(|error| OpenError::Object { reason: with_causes(&error) })?;
        for name in object::MAPS {
            let share = match name {
                object::LISTENERS => Share::GroupWrite(proxy_gid),
                object::CONNECTIONS => Share::GroupRead(proxy_gid),
                _ => Share::Root,
            };
            pins.share(name, share)?;
        }
        let mut programs = Self(ebpf);
        for name in object::CLASSIFIERS {
            programs.classifier(name)?.load().map_err(refused(name))?;
        }
        let lookup: &mut SkLookup = programs.typed(object::STEER_LOOKUP)?;
        lookup.load().map_err(refused(object::STEER_LOOKUP))?;
        for (name, _) in object::CGROUP {
            let program: &mut CgroupSockAddr = programs.typed(name)?;
            program.load().map_err(refused(name))?;
        }
        programs.pin(pins)?;
        Ok(programs)
    }

    /// The descriptor of a loaded program.
    pub(super) fn fd(&self, name: &'static str) -> io::Result<BorrowedFd<'_>> {
        let program = self.0.program(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        program.fd().map(AsFd::as_fd).map_err(io::Error::other)
    }

    /// A program for devices.
    pub(super) fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, OpenError> {
        self.typed(name)
    }

    fn typed<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, OpenError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let program = self.0.program_mut(name).ok_or(OpenError::MissingProgram { program: name })?;
        program.try_into().map_err(|error: ProgramError| OpenError::ProgramOther {
            program: name,
            reason: with_causes(&error),
        })
    }

    fn pin(&self, pins: &Pins) -> Result<(), PinError> {
        let cgroup = object::CGROUP.map(|(name, _)| name);
        for name in object::CLASSIFIERS.into_iter().chain([object::STEER_LOOKUP]).chain(cgroup) {
            let path = pins.program(name);
            let fd = self.fd(name).map_err(pin_error("pin", &path))?;
            pins::replace(fd, &path)?;
        }
        Ok(())
    }
}

/// Opens a map that [`Programs::load`] pinned.
pub(super) fn table<K: Pod, V: Pod>(pins: &Pins, name: &'static str) -> Result<Table<K, V>, PinError> {
    let path = pins.map(name);
    Table::from_pin(&path, Access::ReadWrite).map_err(pin_error("use", &path))
}

/// tcx where the kernel has it.
pub(super) fn supported_attachment() -> Attachment {
    if sys::has_tcx() { Attachment::Tcx } else { Attachment::Clsact }
}

fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> OpenError {
    move |error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            OpenError::Program { program, source: io_error, log_tail: tail(&log, VERIFIER_LOG_LINES) }
        }
        other => OpenError::ProgramOther { program, reason: with_causes(&other) },
    }
}

/// An error and its causes in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
