//! The thread that owns the [`Datapath`]. Map writes are blocking system calls, thousands of them at times,
//! so they have a thread of their own and take commands one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};

use abi::{Config, EndpointEntry};
use ebpf_redirect::{AttachError, ConnectionUse, Counters, Datapath, GcReport, MapError, PinError};
use policy::EndpointPolicy;
use tokio::sync::oneshot;

use super::maps::KernelState;

/// Policies by endpoint id.
pub type Policies = BTreeMap<u32, Arc<EndpointPolicy>>;

/// What the publisher needs of the datapath; tests put a recorder in its place.
pub trait Kernel: Send + 'static {
    /// Writes the node-wide settings.
    fn configure(&mut self, config: &Config) -> Result<(), MapError>;
    /// Replaces the policies of several endpoints, each in one step. After an error some may be replaced and
    /// others not: the caller has to write or remove each of them.
    fn set_policies(&mut self, policies: &Policies) -> Result<(), MapError>;
    /// From here on everything of this endpoint is dropped.
    fn remove_policy(&mut self, id: u32) -> Result<(), MapError>;
    /// Puts the programs onto a veth, or tells them of a changed identity.
    fn attach_endpoint(&mut self, ifindex: u32, entry: &EndpointEntry) -> Result<(), AttachError>;
    /// Takes the programs off.
    fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), AttachError>;
    /// Forgets the policies of all endpoints but these.
    fn retain_policies(&mut self, ids: &BTreeSet<u32>) -> Result<(), MapError>;
    /// Puts the program onto a device toward the outside.
    fn attach_device(&mut self, ifindex: u32) -> Result<(), AttachError>;
    /// Makes ipcache and services what `state` says.
    fn sync(&mut self, state: &KernelState) -> Result<(), MapError>;
    /// What the programs counted.
    fn counters(&self) -> Result<Counters, MapError>;
    /// How full the map of connections is, and who fills it.
    fn connection_use(&self) -> Result<ConnectionUse, MapError>;
    /// Removes expired connections.
    fn collect_garbage(&mut self) -> Result<GcReport, AttachError>;
    /// Ends what agents with another layout of the maps left: their programs, behind ours, decide as well.
    fn retire_other_versions(&mut self) -> Result<(), PinError>;
}

impl Kernel for Datapath {
    fn configure(&mut self, config: &Config) -> Result<(), MapError> {
        Datapath::configure(self, config)
    }

    fn set_policies(&mut self, policies: &Policies) -> Result<(), MapError> {
        Datapath::set_policies(self, policies.iter().map(|(id, policy)| (*id, &policy.entries))).map(drop)
    }

    fn remove_policy(&mut self, id: u32) -> Result<(), MapError> {
        Datapath::remove_policy(self, id)
    }

    fn attach_endpoint(&mut self, ifindex: u32, entry: &EndpointEntry) -> Result<(), AttachError> {
        Datapath::attach_endpoint(self, ifindex, entry)
    }

    fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), AttachError> {
        Datapath::detach_endpoint(self, ifindex)
    }

    fn retain_policies(&mut self, ids: &BTreeSet<u32>) -> Result<(), MapError> {
        Datapath::retain_policies(self, ids).map(drop)
    }

    fn attach_device(&mut self, ifindex: u32) -> Result<(), AttachError> {
        Datapath::attach_device(self, ifindex)
    }

    fn sync(&mut self, state: &KernelState) -> Result<(), MapError> {
        self.sync_ipcache(&state.ipcache)?;
        self.sync_services(&state.services).map(drop)
    }

    fn counters(&self) -> Result<Counters, MapError> {
        Datapath::counters(self)
    }

    fn connection_use(&self) -> Result<ConnectionUse, MapError> {
        Datapath::connection_use(self)
    }

    fn collect_garbage(&mut self) -> Result<GcReport, AttachError> {
        Datapath::collect_garbage(self)
    }

    fn retire_other_versions(&mut self) -> Result<(), PinError> {
        Datapath::retire_other_versions(self)
    }
}

/// What became of a state.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Endpoints whose programs and policy are in place.
    pub endpoints: BTreeSet<u32>,
    /// What could not be done, for people. The rest was done.
    pub problems: Vec<String>,
}

type Reply<T> = oneshot::Sender<T>;

enum Command {
    Apply(Box<KernelState>, Reply<Applied>),
    Detach(u32, Reply<Result<(), AttachError>>),
    AttachDevice(u32, Reply<Result<(), AttachError>>),
    Counters(Reply<Result<Counters, MapError>>),
    ConnectionUse(Reply<Result<ConnectionUse, MapError>>),
    CollectGarbage(Reply<Result<GcReport, AttachError>>),
}

/// Sends commands to the thread. Cheap to clone; the thread ends with the last of them.
#[derive(Clone, Debug)]
pub struct KernelHandle {
    commands: mpsc::Sender<Command>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Apply(..) => "Apply",
            Self::Detach(..) => "Detach",
            Self::AttachDevice(..) => "AttachDevice",
            Self::Counters(..) => "Counters",
            Self::ConnectionUse(..) => "ConnectionUse",
            Self::CollectGarbage(..) => "CollectGarbage",
        })
    }
}

/// The kernel thread has ended, which only a panic in it can cause.
#[derive(Debug, thiserror::Error)]
#[error("the thread that owns the kernel maps has ended: restart the agent")]
pub struct KernelGone;

impl KernelHandle {
    /// Starts the thread. `base` holds the settings that stay; the revision comes with each state.
    pub fn start(kernel: impl Kernel, base: Config) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let mut writer = Writer { kernel, base, written: KernelState::default(), alone: false };
        std::thread::Builder::new().name("kernel".into()).spawn(move || {
            while let Ok(command) = receiver.recv() {
                writer.handle(command);
            }
        })?;
        Ok(Self { commands })
    }

    /// Brings the kernel to `state`.
    pub async fn apply(&self, state: KernelState) -> Result<Applied, KernelGone> {
        self.ask(|reply| Command::Apply(Box::new(state), reply)).await
    }

    /// Takes the programs off a veth.
    pub async fn detach(&self, ifindex: u32) -> Result<Result<(), AttachError>, KernelGone> {
        self.ask(|reply| Command::Detach(ifindex, reply)).await
    }

    /// Puts the program onto a device toward the outside.
    pub async fn attach_device(&self, ifindex: u32) -> Result<Result<(), AttachError>, KernelGone> {
        self.ask(|reply| Command::AttachDevice(ifindex, reply)).await
    }

    /// What the programs counted.
    pub async fn counters(&self) -> Result<Result<Counters, MapError>, KernelGone> {
        self.ask(Command::Counters).await
    }

    /// How full the map of connections is, and who fills it.
    pub async fn connection_use(&self) -> Result<Result<ConnectionUse, MapError>, KernelGone> {
        self.ask(Command::ConnectionUse).await
    }

    /// Removes expired connections.
    pub async fn collect_garbage(&self) -> Result<Result<GcReport, AttachError>, KernelGone> {
        self.ask(Command::CollectGarbage).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, KernelGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| KernelGone)?;
        answer.await.map_err(|_| KernelGone)
    }
}

struct Writer<K> {
    kernel: K,
    base: Config,
    /// What this process has written so far.
    written: KernelState,
    /// Whether what other versions left has been removed.
    alone: bool,
}

impl<K: Kernel> Writer<K> {
    /// Whoever asked may have gone meanwhile: a reply that nobody takes is no error.
    fn handle(&mut self, command: Command) {
        match command {
            Command::Apply(state, reply) => {
                let _ = reply.send(self.apply(*state));
            }
            Command::Detach(ifindex, reply) => {
                self.written.endpoints.remove(&ifindex);
                let _ = reply.send(self.kernel.detach_endpoint(ifindex));
            }
            Command::AttachDevice(ifindex, reply) => {
                let _ = reply.send(self.kernel.attach_device(ifindex));
            }
            Command::Counters(reply) => {
                let _ = reply.send(self.kernel.counters());
            }
            Command::ConnectionUse(reply) => {
                let _ = reply.send(self.kernel.connection_use());
            }
            Command::CollectGarbage(reply) => {
                let _ = reply.send(self.kernel.collect_garbage());
            }
        }
    }

    /// Policies first, so that nobody is named before it is policed; then names and services; the revision
    /// last, since it makes every live connection look again; removals after it.
    fn apply(&mut self, state: KernelState) -> Applied {
        let mut applied = Applied::default();
        let mut failed = BTreeSet::new();
        self.write_policies(&state.policies, &mut applied, &mut failed);
        for (ifindex, entry) in &state.endpoints {
            if self.written.endpoints.get(ifindex) != Some(entry)
                && let Err(error) = self.kernel.attach_endpoint(*ifindex, entry)
            {
                applied.problems.push(format!("endpoint {}: {error}", entry.id));
                failed.insert(entry.id);
            }
        }
        if let Err(error) = self.kernel.sync(&state) {
            applied.problems.push(error.to_string());
        }
        let config = Config { revision: state.revision, ..self.base };
        if let Err(error) = self.kernel.configure(&config) {
            applied.problems.push(error.to_string());
        }
        if let Err(error) = self.kernel.retain_policies(&state.policies.keys().copied().collect()) {
            applied.problems.push(error.to_string());
        }
        let attached = state.endpoints.values().map(|entry| entry.id);
        applied.endpoints = attached.filter(|id| !failed.contains(id)).collect();
        if !self.alone && applied.problems.is_empty() {
            // Not before everything is enforced by our programs: until then both decide.
            match self.kernel.retire_other_versions() {
                Ok(()) => self.alone = true,
                Err(error) => applied.problems.push(error.to_string()),
            }
        }
        self.written = state;
        self.written.policies.retain(|id, _| !failed.contains(id));
        self.written.endpoints.retain(|_, entry| !failed.contains(&entry.id));
        applied
    }

    /// All at once, since the kernel waits for running programs once a call; one by one if that fails, so
    /// that one endpoint's policy does not hold up the others'.
    fn write_policies(&mut self, policies: &Policies, applied: &mut Applied, failed: &mut BTreeSet<u32>) {
        let written = |id: &u32| self.written.policies.get(id);
        let changed: Policies = policies
            .iter()
            .filter(|(id, policy)| written(id) != Some(policy))
            .map(|(id, policy)| (*id, policy.clone()))
            .collect();
        if changed.is_empty() || self.kernel.set_policies(&changed).is_ok() {
            return;
        }
        for (id, policy) in changed {
            if let Err(error) = self.kernel.set_policies(&[(id, policy)].into()) {
                // The policy before may be laxer: better none, which drops everything.
                applied.problems.push(format!("endpoint {id}: {error}: its traffic is dropped"));
                failed.insert(id);
                if let Err(error) = self.kernel.remove_policy(id) {
                    applied.problems.push(format!("endpoint {id}: {error}: its old policy stays"));
                }
            }
        }
    }
}
