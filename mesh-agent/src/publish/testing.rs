//! A datapath that writes down what it is told, and a proxy on the other end of a socket.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use abi::{Config, EndpointEntry};
use ebpf_redirect::{AttachError, ConnectionUse, Counters, GcReport, MapError, PinError};
use l7_proxy::wire::{self, proxy_message::Kind};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::kernel::{Kernel, Policies};
use super::maps::KernelState;

/// What happened, in order.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) log: Log,
    /// Policies of these endpoints cannot be written.
    pub(crate) refused: BTreeSet<u32>,
}

impl Recorder {
    fn note(&self, text: String) {
        self.log.lock().expect("the log").push(text);
    }
}

impl Kernel for Recorder {
    fn configure(&mut self, config: &Config) -> Result<(), MapError> {
        self.note(format!("revision {}", config.revision));
        Ok(())
    }

    fn set_policies(&mut self, policies: &Policies) -> Result<(), MapError> {
        if policies.keys().any(|id| self.refused.contains(id)) {
            return Err(MapError::Full { map: "POLICY", wanted: 2, limit: 1 });
        }
        self.note(format!("policies {:?}", policies.keys().collect::<Vec<_>>()));
        Ok(())
    }

    fn remove_policy(&mut self, id: u32) -> Result<(), MapError> {
        self.note(format!("remove policy {id}"));
        Ok(())
    }

    fn attach_endpoint(&mut self, ifindex: u32, entry: &EndpointEntry) -> Result<(), AttachError> {
        self.note(format!("attach {} to {ifindex}", entry.id));
        Ok(())
    }

    fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.note(format!("detach {ifindex}"));
        Ok(())
    }

    fn retain_policies(&mut self, ids: &BTreeSet<u32>) -> Result<(), MapError> {
        self.note(format!("retain {ids:?}"));
        Ok(())
    }

    fn attach_device(&mut self, _ifindex: u32) -> Result<(), AttachError> {
        Ok(())
    }

    fn sync(&mut self, state: &KernelState) -> Result<(), MapError> {
        self.note(format!("sync {} prefixes", state.ipcache.len()));
        Ok(())
    }

    fn counters(&self) -> Result<Counters, MapError> {
        Ok(Counters::default())
    }

    fn connection_use(&self) -> Result<ConnectionUse, MapError> {
        Ok(ConnectionUse::default())
    }

    fn collect_garbage(&mut self) -> Result<GcReport, AttachError> {
        Ok(GcReport::default())
    }

    fn retire_other_versions(&mut self) -> Result<(), PinError> {
        self.note("retire".into());
        Ok(())
    }
}

/// A proxy that says what it is told to say.
#[derive(Debug)]
pub(crate) struct Proxy(pub(crate) UnixStream);

impl Proxy {
    pub(crate) async fn say(&mut self, kind: Kind) -> io::Result<()> {
        let frame = wire::ProxyMessage { kind: Some(kind) }.encode_to_vec();
        self.0.write_u32(frame.len() as u32).await?;
        self.0.write_all(&frame).await
    }

    pub(crate) async fn hello(&mut self) -> io::Result<()> {
        let protocol_version = wire::PROTOCOL_VERSION;
        self.say(Kind::Hello(wire::Hello { protocol_version, pid: 77, ..Default::default() })).await
    }

    pub(crate) async fn ack(&mut self, revision: u32, error: &str) -> io::Result<()> {
        self.say(Kind::Ack(wire::Ack { revision, error: error.into() })).await
    }

    pub(crate) async fn update(&mut self) -> io::Result<wire::ConfigUpdate> {
        let length = self.0.read_u32().await? as usize;
        let mut frame = vec![0; length];
        self.0.read_exact(&mut frame).await?;
        wire::ConfigUpdate::decode(frame.as_slice()).map_err(io::Error::other)
    }
}
