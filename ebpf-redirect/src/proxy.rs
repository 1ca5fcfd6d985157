//! The proxy's part of the maps. It opens them by their pins, with no privilege but its group's file
//! permission, and needs no agent for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use abi::{ConnEntry, ConnKey, ListenerSlot};

use crate::error::PinError;
use crate::map::Table;
use crate::object::{CONNECTIONS, LISTENERS};
use crate::pins::{map_path, pin_error};
use crate::sys::{self, Access};

/// The maps that the proxy uses: `LISTENERS`, to write, and `CONNECTIONS`, to read.
#[derive(Debug)]
pub struct ProxyMaps {
    /// A SOCKMAP takes the descriptor of a socket as its value.
    listeners: Table<u32, u32>,
    connections: Table<ConnKey, ConnEntry>,
}

impl ProxyMaps {
    /// Opens the maps below `pin_root`.
    ///
    /// # Errors
    /// If there are none (no agent has run), or this process may not.
    pub fn open(pin_root: &Path) -> Result<Self, PinError> {
        let (listeners, connections) = (map_path(pin_root, LISTENERS), map_path(pin_root, CONNECTIONS));
        Ok(Self {
            listeners: Table::from_pin(&listeners, Access::ReadWrite)
                .map_err(pin_error("open", &listeners))?,
            connections: Table::from_pin(&connections, Access::ReadOnly)
                .map_err(pin_error("open", &connections))?,
        })
    }

    /// Puts a listening socket into its slot, in place of the one that may be there. The kernel takes it out
    /// when the socket closes.
    ///
    /// # Errors
    /// What the kernel refuses: the socket is not a TCP one, or does not listen.
    pub fn publish_listener(&self, slot: ListenerSlot, listener: BorrowedFd<'_>) -> io::Result<()> {
        self.listeners.put(&(slot as u32), &listener.as_raw_fd().cast_unsigned())
    }

    /// What the programs recorded of a connection. An entry that has expired is none.
    pub fn connection(&self, key: &ConnKey) -> io::Result<Option<ConnEntry>> {
        let entry = self.connections.get(key)?;
        Ok(entry.filter(|entry| entry.expires_ns > sys::monotonic_ns()))
    }

    /// Whether the maps are still those of `pin_root`: after an agent with a new map layout, or one that
    /// removed all pins, they are not, and the proxy has to open them again.
    ///
    /// # Errors
    /// What says neither: no free descriptor, say.
    pub fn is_current(&self, pin_root: &Path) -> io::Result<bool> {
        match sys::obj_get(&map_path(pin_root, CONNECTIONS), Access::ReadOnly) {
            Ok(pinned) => {
                Ok(sys::map_info(pinned.as_fd())?.id == sys::map_info(self.connections.as_fd())?.id)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
