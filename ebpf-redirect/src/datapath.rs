//! The datapath of one node: the loaded programs, their pins and their maps.
//!
//! One process at a time has it open (a lock on the folder of pins). Dropping it changes nothing in the
//! kernel: programs, maps and links are pinned. Only [`Datapath::detach_all`] ends enforcement.

mod accounts;
mod adopt;
mod attach;
mod garbage;
mod link;
mod load;
mod policy;
mod slot;
mod sync;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use abi::{
    BackendEntry, BackendKey, Config, ConnEntry, ConnKey, EndpointEntry, IpcacheEntry, IpcacheKey,
    PolicyEntry, PolicyKey, ServiceEntry, ServiceKey, VethEntry, account,
};

pub use accounts::ConnectionUse;
pub use adopt::remove_pins;
pub use garbage::GcReport;
pub use sync::Changes;

use crate::counters::Counters;
use crate::error::{MapError, OpenError};
use crate::events::Events;
use crate::map::Table;
use crate::object;
use crate::pins::Pins;
use crate::sys;

/// Where the datapath lives and who may share it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the pins on a BPF file system; its last part names the ABI version:
    /// `/sys/fs/bpf/heddle/<instance>/v<abi::ABI_VERSION>`.
    pub pin_root: PathBuf,
    /// Group of the proxy: may put sockets into `LISTENERS` and read `CONNECTIONS`.
    pub proxy_gid: u32,
}

/// How programs get onto devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// tcx links (Linux 6.6): replaced in place.
    Tcx,
    /// Filters of a clsact qdisc, for older kernels.
    Clsact,
}

/// The datapath of this node.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    programs: load::Programs,
    attachment: Attachment,
    config: Table<u32, Config>,
    endpoints: Table<u32, EndpointEntry>,
    /// Endpoint id -> veth.
    veths: Table<u32, VethEntry>,
    /// Cookie of a network namespace -> endpoint id.
    netns: Table<u64, u32>,
    ipcache: Table<IpcacheKey, IpcacheEntry>,
    /// Endpoint id -> inner map (an id when read, a descriptor when written).
    policy: Table<u32, u32>,
    connections: Table<ConnKey, ConnEntry>,
    /// Account -> connections that it ever opened, and that are no longer in the map.
    opened: Table<u32, u64>,
    released: Table<u32, u64>,
    services: Table<ServiceKey, ServiceEntry>,
    backends: Table<BackendKey, BackendEntry>,
    drops: Table<u32, u64>,
    counters: Table<u32, u64>,
    known: Known,
    gc: garbage::Walk,
}

/// What the maps are known to hold, so that a sync writes only what differs. Filled from the kernel the
/// first time it is needed; emptied when a write fails.
#[derive(Debug, Default)]
struct Known {
    ipcache: Option<BTreeMap<IpcacheKey, IpcacheEntry>>,
    services: Option<BTreeMap<ServiceKey, ServiceEntry>>,
    backends: Option<BTreeMap<BackendKey, BackendEntry>>,
    policy: HashMap<u32, BTreeMap<PolicyKey, PolicyEntry>>,
}

impl Datapath {
    /// Loads the programs, adopts the maps that are pinned already, and replaces the code of every attached
    /// program by the new one, one link at a time and each without a gap.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing that was attached is detached by a failure.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let attachment = load::supported_attachment();
        Self::open_with(options, attachment)
    }

    /// Like [`open`](Self::open), with the way of attaching given instead of probed.
    pub fn open_with(options: &Options, attachment: Attachment) -> Result<Self, OpenError> {
        crate::probe::prerequisites()?;
        let pins = Pins::create(&options.pin_root, options.proxy_gid)?;
        let programs = load::Programs::load(&pins, options.proxy_gid)?;
        let mut datapath = Self {
            config: load::table(&pins, object::CONFIG)?,
            endpoints: load::table(&pins, object::ENDPOINTS)?,
            veths: load::table(&pins, object::VETHS)?,
            netns: load::table(&pins, object::NETNS)?,
            ipcache: load::table(&pins, object::IPCACHE)?,
            policy: load::table(&pins, object::POLICY)?,
            connections: load::table(&pins, object::CONNECTIONS)?,
            opened: load::table(&pins, object::OPENED)?,
            released: load::table(&pins, object::RELEASED)?,
            services: load::table(&pins, object::SERVICES)?,
            backends: load::table(&pins, object::BACKENDS)?,
            drops: load::table(&pins, object::DROPS)?,
            counters: load::table(&pins, object::COUNTERS)?,
            pins,
            programs,
            attachment,
            known: Known::default(),
            gc: garbage::Walk::default(),
        };
        datapath.adopt()?;
        Ok(datapath)
    }

    /// How programs are attached to devices.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Folder of the pins.
    pub fn pin_root(&self) -> &Path {
        self.pins.root()
    }

    /// Writes the node-wide settings; all programs see them at their next packet.
    pub fn configure(&mut self, config: &Config) -> Result<(), MapError> {
        self.config.put(&0, config).map_err(MapError::io(object::CONFIG, "write the settings"))
    }

    /// The settings now in force; all zero before the first [`configure`](Self::configure).
    pub fn configuration(&self) -> Result<Config, MapError> {
        let config = self.config.get(&0).map_err(MapError::io(object::CONFIG, "read the settings"))?;
        Ok(config.unwrap_or_default())
    }

    /// Cookie of this thread's network namespace, for [`Config::node_netns_cookie`].
    pub fn netns_cookie() -> io::Result<u64> {
        sys::netns_cookie()
    }

    /// The stream of events. There may be one at a time: two would share the records between them. It
    /// keeps working until it is dropped, whatever happens to the datapath. Needs a tokio runtime.
    pub fn events(&mut self) -> Result<Events, MapError> {
        Events::open(&self.pins.map(object::EVENTS))
    }

    /// What the programs have counted since the maps were made.
    pub fn counters(&self) -> Result<Counters, MapError> {
        Counters::read(&self.drops, &self.counters, self.held(account::TOTAL)?)
    }
}
