//! What the agent does until it ends, besides publishing and answering.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ebpf_redirect::{Datapath, Events};
use ipnet::IpNet;
use l7_proxy::wire;
use policy::Snapshot;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Agent;
use super::args::{Localhost, NodeArgs};
use super::endpoints::Endpoints;
use crate::flows::view::{View, wall_offset_ns};
use crate::node::{Device, NetworkChanges, NodeConfig, Plumbing};
use crate::publish::Published;

/// How long flows wait for the names of the revision that decided them. The proxy has it first, and the kernel
/// may wait a second for its acknowledgement.
const VIEW_MAX: Duration = Duration::from_secs(2);
/// How often expired connections are looked for while the map is nearly empty.
const GARBAGE_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked how full the map is; expired connections are removed as often while it fills up.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(1);
/// How often deletions that the CNI plugin left are looked for.
const DELETIONS_EVERY: Duration = Duration::from_secs(3);
/// How often veths that vanished are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// The node's devices and addresses are looked at this often without any notice of a change.
const NETWORK_EVERY: Duration = Duration::from_secs(60);
/// The node's devices are looked at this long after a change, since changes come in swarms.
const NETWORK_SETTLE: Duration = Duration::from_millis(500);

/// Kernel events become flows.
pub(super) async fn kernel_flows(agent: Arc<Agent>, mut events: Events) {
    loop {
        match events.next().await {
            Ok(batch) => {
                let knows_all = |state: &Published| {
                    let named = |event| !state.view.kernel_flow(event, 0).lacks_policy();
                    batch.iter().all(|event| knows(state, event.revision, event.rule) && named(event))
                };
                let view = view_of(&agent, knows_all).await;
                let offset = wall_offset_ns();
                agent.metrics.flows.inc_by(batch.len() as u64);
                batch.iter().for_each(|event| agent.flows.push(view.kernel_flow(event, offset)));
            }
            Err(error) => {
                tracing::error!("kernel events cannot be read: {error}: flows show the proxy's part only");
                return;
            }
        }
    }
}

/// The names to show flows with. Kernel and proxy are a moment ahead: what they decided by a revision is named
/// by that revision, as soon as it is published.
async fn view_of(agent: &Agent, knows_all: impl Fn(&Published) -> bool) -> Arc<View> {
    let mut published = agent.published.clone();
    // Without it in time the names before are better than none.
    let _ = timeout(VIEW_MAX, published.wait_for(|state| knows_all(state))).await.map(drop);
    agent.published.borrow().view.clone()
}

/// The kernel's policies change before its revision does, so it may name a rule, or deny by a default deny,
/// that the revision in force has not.
fn knows(state: &Published, revision: u32, rule: u32) -> bool {
    // Revisions go round.
    let ahead = revision.wrapping_sub(state.revision);
    let is_past = ahead == 0 || ahead > u32::MAX / 2;
    is_past && (rule == 0 || state.view.compiled.rules.contains_key(&rule))
}

/// Access records become flows.
pub(super) async fn proxy_flows(agent: Arc<Agent>, mut records: mpsc::Receiver<wire::Flows>) {
    while let Some(batch) = records.recv().await {
        let knows_all =
            |state: &Published| batch.flows.iter().all(|flow| knows(state, flow.revision, flow.rule));
        let view = view_of(&agent, knows_all).await;
        agent.metrics.flows_lost.inc_by(batch.lost);
        agent.metrics.flows.inc_by(batch.flows.len() as u64);
        batch.flows.iter().for_each(|record| agent.flows.push(view.proxy_flow(record)));
    }
}

/// Expired connections, deletions left by the plugin, vanished veths.
pub(super) async fn housekeeping(agent: Arc<Agent>) {
    let every = |period| {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut connections, mut deletions, mut sweep) =
        (every(CONNECTIONS_EVERY), every(DELETIONS_EVERY), every(SWEEP_EVERY));
    let mut due = Instant::now();
    loop {
        tokio::select! {
            _ = connections.tick() => {
                if is_filling(&agent).await || due <= Instant::now() {
                    let complete = collect_garbage(&agent).await;
                    due = Instant::now() + if complete { GARBAGE_EVERY } else { Duration::ZERO };
                }
            }
            _ = deletions.tick() => release_deleted(&agent).await,
            _ = sweep.tick() => agent.sweep().await,
        }
    }
}

/// Looks how full the map of connections is, for the status too; `true` if it fills up.
async fn is_filling(agent: &Agent) -> bool {
    match agent.kernel.connection_use().await {
        Ok(Ok(usage)) => {
            let filling = usage.is_filling();
            *agent.connections.lock().unwrap_or_else(PoisonError::into_inner) = usage;
            filling
        }
        Ok(Err(error)) => {
            tracing::error!("the connections cannot be counted: {error}");
            true
        }
        Err(error) => {
            tracing::error!("{error}");
            false
        }
    }
}

/// Removes a part of the expired connections; `false` if there is more to look at.
async fn collect_garbage(agent: &Agent) -> bool {
    match agent.kernel.collect_garbage().await {
        Ok(Ok(report)) => {
            tracing::debug!("{report:?}");
            return report.complete;
        }
        Ok(Err(error)) => tracing::error!("expired connections cannot be removed: {error}"),
        Err(error) => tracing::error!("{error}"),
    }
    true
}

async fn release_deleted(agent: &Agent) {
    let Ok((pending, _)) = crate::cni::pending_deletions(&agent.instance.run_dir()) else { return };
    for deletion in pending {
        let released = agent.release(&deletion.attachment).await;
        let done =
            released.map_err(|e| e.to_string()).and_then(|()| deletion.done().map_err(|e| e.to_string()));
        if let Err(error) = done {
            tracing::warn!("a deletion that the CNI plugin left: {error}");
        }
    }
}

/// Follows the node's network: its addresses, and the devices toward the outside, which get the program.
pub(super) async fn network(agent: Arc<Agent>, names: Vec<String>) {
    let Some(plumbing) = &agent.plumbing else { return };
    let mut changes = match NetworkChanges::listen() {
        Ok(changes) => changes,
        Err(error) => return tracing::error!("{error}: new devices and addresses are not noticed"),
    };
    loop {
        match plumbing.own_addresses().await {
            Ok(addresses) => agent.pods.set_node_addresses(addresses),
            Err(error) => tracing::error!("{error}: the node's addresses stay as they were"),
        }
        // A change may have come before anyone listened, and a notice can be lost.
        let _ = timeout(NETWORK_EVERY, changes.changed()).await;
        tokio::time::sleep(NETWORK_SETTLE).await;
        match wanted_devices(plumbing, &names).await {
            Ok(devices) => {
                for device in devices {
                    if let Err(error) = plumbing.prepare_uplink(&device) {
                        tracing::error!("device {}: {error}", device.name);
                    }
                    match agent.kernel.attach_device(device.ifindex).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::error!("device {}: {error}", device.name),
                        Err(error) => tracing::error!("{error}"),
                    }
                }
            }
            Err(error) => tracing::error!("{error}"),
        }
    }
}

/// Follows the pod ranges of Node manifests: addresses for new pods, protection, masquerading.
pub(super) async fn ranges(agent: Arc<Agent>, args: NodeArgs, mut applied: NodeConfig) {
    let Some(plumbing) = &agent.plumbing else { return };
    let mut source = agent.pods.subscribe();
    let mut pools = pod_cidrs(&source.borrow().snapshot, &args);
    while source.changed().await.is_ok() {
        let snapshot = source.borrow_and_update().snapshot.clone();
        let wanted_pools = pod_cidrs(&snapshot, &args);
        if wanted_pools != pools {
            if let Err(error) = agent.endpoints.lock().use_pod_cidrs(&wanted_pools) {
                tracing::error!("Node {}: spec.podCIDRs: {error}: the ranges before stay", snapshot.node);
            }
            pools = wanted_pools;
        }
        let wanted = node_config(&snapshot, &args, &agent.endpoints.lock());
        if wanted == applied {
            continue;
        }
        match plumbing.set_up(&wanted).await {
            Ok(()) => {
                tracing::info!("the pod ranges are now {:?}", wanted.pod_cidrs);
                applied = wanted;
            }
            // Tried again with the next change of anything.
            Err(error) => tracing::error!("Node {}: {error}", snapshot.node),
        }
    }
}

/// The ranges for new pods. The Node manifest's come before the command line's.
pub(super) fn pod_cidrs(snapshot: &Snapshot, args: &NodeArgs) -> Vec<IpNet> {
    let node = snapshot.nodes.get(&snapshot.node);
    let of_manifest = node.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    if of_manifest.is_empty() { args.pod_cidrs() } else { of_manifest }
}

/// What the node's network shall look like. A pod keeps its address when the ranges change, and must go on
/// being a pod for the rules and for masquerading: addresses outside the ranges are named by themselves.
pub(super) fn node_config(snapshot: &Snapshot, args: &NodeArgs, endpoints: &Endpoints) -> NodeConfig {
    let mut pod_cidrs = pod_cidrs(snapshot, args);
    let addresses = endpoints.iter().flat_map(|record| &record.addresses);
    let outside = addresses.filter(|ip| !pod_cidrs.iter().any(|net| net.contains(*ip)));
    let outside: Vec<IpNet> = outside.map(|ip| IpNet::from(*ip)).collect();
    pod_cidrs.extend(IpNet::aggregate(&outside));
    let not_masqueraded = snapshot.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
    NodeConfig {
        pod_cidrs,
        masquerade: !args.no_masquerade,
        not_masqueraded,
        police_node: args.allow_localhost == Localhost::Policy,
    }
}

/// Puts the program onto the devices toward the outside, and says which they are.
pub(super) async fn attach_devices(
    datapath: &mut Datapath,
    plumbing: &Plumbing,
    names: &[String],
) -> anyhow::Result<Vec<Device>> {
    let devices = wanted_devices(plumbing, names).await?;
    for device in &devices {
        plumbing.prepare_uplink(device)?;
        datapath.attach_device(device.ifindex)?;
    }
    for stale in datapath.devices()?.into_iter().filter(|i| devices.iter().all(|d| d.ifindex != *i)) {
        datapath.detach_device(stale)?;
    }
    Ok(devices)
}

async fn wanted_devices(plumbing: &Plumbing, names: &[String]) -> anyhow::Result<Vec<Device>> {
    if names.is_empty() {
        return Ok(plumbing.default_devices().await?);
    }
    let devices = names.iter().map(|name| {
        let ifindex = nix::net::if_::if_nametoindex(name.as_str()).map_err(|_| {
            anyhow::anyhow!("--device {name}: there is no such device in this network namespace")
        })?;
        Ok(Device { ifindex, name: name.clone() })
    });
    devices.collect()
}
