//! The order in which an agent starts. What lives is adopted first, the source has read everything before
//! anything is published, and the API answers last: nobody sees less than the truth.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use abi::{Config, config_flags};
use anyhow::Context;
use ebpf_redirect::{Datapath, Events, Options};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc, watch};

use super::args::{Localhost, NodeArgs};
use super::attach::{EndpointTable, vanished};
use super::endpoints::Endpoints;
use super::pods::{SourcePods, registration};
use super::{Agent, Args, cluster, loops, uplink};
use crate::api;
use crate::cli::Global;
use crate::flows::FlowLog;
use crate::layout::Instance;
use crate::metrics::Metrics;
use crate::node::{NodeConfig, Plumbing, ensure_bpffs, make_cgroup};
use crate::publish::kernel::KernelHandle;
use crate::publish::mark::MarkFile;
use crate::publish::proxy::ProxyHub;
use crate::publish::{Parts, Published, Publisher};
use crate::sources::{self, Sources, Surrounding, kubernetes};

/// Batches of access records that wait to be taken.
const FLOW_BATCHES_MAX: usize = 256;
/// Threads of the runtime: the agent waits most of the time.
const WORKERS: usize = 2;
/// Domain of the names of services.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Name of the file in the run folder that keeps sysctls' old values until the node is torn down.
pub(crate) const SYSCTLS: &str = "sysctls.json";

impl Args {
    /// Runs until SIGTERM or SIGINT.
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        crate::descriptors::raise_limit()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
        runtime.block_on(run(&global.instance, &self.node))?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn run(instance: &Instance, args: &NodeArgs) -> anyhow::Result<()> {
    if let Some(files) = args.cni_files(instance) {
        files.check_alone()?;
    }
    ensure_bpffs()?;
    let cgroups = make_cgroup(instance)?;
    folders(instance, args.uid)?;
    let pin_root = instance.pin_root();
    let mut datapath = Datapath::open(&Options { pin_root, proxy_gid: args.uid })?;
    let before = datapath.configuration()?;
    let plumbing = Plumbing::open(instance.run_dir().join(SYSCTLS))?;
    let endpoints = adopt_endpoints(instance, &plumbing, &mut datapath).await?;

    let sources = start_sources(instance, args, &plumbing, &endpoints, before.revision).await?;
    let source = sources.subscribe();
    let snapshot = source.borrow().snapshot.clone();
    let endpoints = Arc::new(EndpointTable::new(endpoints));
    endpoints.lock().use_pod_cidrs(&loops::pod_cidrs(&snapshot, args))?;
    let node_config = loops::node_config(&snapshot, args, &endpoints.lock());
    plumbing.set_up(&node_config).await?;
    datapath.attach_cgroup(args.cgroup.as_deref().unwrap_or(&cgroups))?;
    datapath.attach_netns()?;
    datapath.police_node(args.allow_localhost == Localhost::Policy)?;
    let devices = loops::attach_devices(&mut datapath, &plumbing, &args.devices).await?;

    let events = datapath.events()?;
    let kernel = KernelHandle::start(datapath, base_config(args)?)?;
    let (flow_sender, flow_receiver) = mpsc::channel(FLOW_BATCHES_MAX);
    let metrics = Metrics::default();
    let proxies = ProxyHub::new(flow_sender, metrics.flows_lost.clone());
    let published = watch::Sender::<Arc<Published>>::default();
    let wake = Arc::new(Notify::new());
    let mut compiler = policy::Compiler::default();
    let publisher = Publisher::new(Parts {
        kernel: kernel.clone(),
        proxies: proxies.clone(),
        veths: endpoints.clone(),
        published: published.clone(),
        wake: wake.clone(),
        compile: Box::new(move |snapshot| compiler.compile(snapshot)),
        revision: before.revision,
        mark: MarkFile::new(&instance.run_dir()),
        publications: metrics.publications.clone(),
    });
    let pods =
        SourcePods { registry: sources.registry(), published: source.clone(), managed: args.kubernetes };
    let agent = Arc::new(Agent {
        instance: instance.clone(),
        mtu: uplink::mtu(&devices).await,
        published: published.subscribe(),
        proxies: proxies.clone(),
        flows: FlowLog::default(),
        metrics,
        kernel,
        connections: Mutex::default(),
        endpoints,
        attach_failures: Mutex::default(),
        readiness: Mutex::new(HashMap::new()),
        plugin_problem: Mutex::new(None),
        wake,
        pods: Box::new(pods),
        cluster_dns: args.cluster_dns,
        plumbing: Some(plumbing),
    });
    let tasks = Tasks { agent, publisher, proxies, source, events, flow_receiver, node_config };
    tasks.run(instance, args).await?;
    // Joins its thread; nothing in the kernel changes.
    drop(sources);
    Ok(())
}

/// Everything that runs until the agent ends.
struct Tasks {
    agent: Arc<Agent>,
    publisher: Publisher<EndpointTable>,
    proxies: ProxyHub,
    source: watch::Receiver<Arc<sources::Published>>,
    events: Events,
    flow_receiver: mpsc::Receiver<l7_proxy::wire::Flows>,
    node_config: NodeConfig,
}

impl Tasks {
    async fn run(self, instance: &Instance, args: &NodeArgs) -> anyhow::Result<()> {
        let proxy_socket = proxy_socket(instance, args.uid)?;
        let agent_socket = instance.agent_socket();
        let api_listener =
            api::bind(&agent_socket, 0o600).with_context(|| agent_socket.display().to_string())?;
        let metrics_listener = TcpListener::bind(args.metrics_address).await.with_context(|| {
            format!("metrics cannot be served at {}: choose another --metrics-address", args.metrics_address)
        })?;
        let agent = self.agent;
        tokio::spawn(self.proxies.serve(proxy_socket, args.uid));
        tokio::spawn(loops::kernel_flows(agent.clone(), self.events));
        tokio::spawn(loops::proxy_flows(agent.clone(), self.flow_receiver));
        tokio::spawn(loops::housekeeping(agent.clone()));
        tokio::spawn(loops::network(agent.clone(), args.devices.clone()));
        tokio::spawn(loops::ranges(agent.clone(), args.clone(), self.node_config));
        if let Some(files) = args.cni_files(instance) {
            tokio::spawn(cluster::keep_plugin(agent.clone(), files));
        }
        if args.kubernetes {
            let access = kubernetes::access(args.kubeconfig.as_ref()).await?;
            let client = kube::Client::try_from(access)?;
            tokio::spawn(cluster::lift_taint(agent.clone(), client, args.node_name()));
        }
        tokio::spawn(api::serve_metrics(agent.clone(), metrics_listener));
        tokio::spawn(api::serve(agent, api_listener));
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            ended = self.publisher.run(self.source) => ended.context("publishing has ended")?,
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        // What answers no more must not look as if it did.
        let _ = fs::remove_file(agent_socket);
        tracing::info!("the agent ends; what is in force stays in force");
        Ok(())
    }
}

/// The folders of the instance, with the permissions that matter.
fn folders(instance: &Instance, uid: u32) -> anyhow::Result<()> {
    let make = |path: &Path, mode: u32| -> anyhow::Result<()> {
        let describe = || format!("cannot make folder {}", path.display());
        fs::create_dir_all(path).with_context(describe)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(describe)
    };
    // The proxy passes through the run folder to its socket and its own folder.
    make(&instance.run_dir(), 0o711)?;
    make(&instance.proxy_dir(), 0o700)?;
    chown(instance.proxy_dir(), Some(uid), Some(uid))?;
    make(&instance.state_dir(), 0o700)
}

fn proxy_socket(instance: &Instance, uid: u32) -> anyhow::Result<UnixListener> {
    let path = instance.proxy_socket();
    let listener = api::bind(&path, 0o600).with_context(|| path.display().to_string())?;
    chown(&path, Some(uid), Some(uid))?;
    Ok(listener)
}

/// The endpoints of the last run that are still there. What was deleted meanwhile is released.
async fn adopt_endpoints(
    instance: &Instance,
    plumbing: &Plumbing,
    datapath: &mut Datapath,
) -> anyhow::Result<Endpoints> {
    let mut endpoints = Endpoints::open(&instance.state_dir())?;
    let (pending, unreadable) = crate::cni::pending_deletions(&instance.run_dir())?;
    for path in unreadable {
        tracing::warn!("{} is no deletion of the CNI plugin: left alone", path.display());
    }
    for deletion in pending {
        if let Some(record) = endpoints.get(&deletion.attachment) {
            plumbing.remove_link(&record.host_ifname).await?;
        }
        endpoints.release(&deletion.attachment)?;
        deletion.done()?;
    }
    let gone: Vec<_> = endpoints.iter().filter(|r| vanished(r)).map(|r| r.attachment.clone()).collect();
    for attachment in gone {
        endpoints.release(&attachment)?;
    }
    let known: Vec<u32> = endpoints.iter().map(|record| record.id).collect();
    for (ifindex, entry) in datapath.endpoints()? {
        if !known.contains(&entry.id) {
            datapath.detach_endpoint(ifindex)?;
        }
    }
    Ok(endpoints)
}

async fn start_sources(
    instance: &Instance,
    args: &NodeArgs,
    plumbing: &Plumbing,
    endpoints: &Endpoints,
    revision: u32,
) -> anyhow::Result<Sources> {
    let node_addresses = plumbing.own_addresses().await?;
    let surrounding = Surrounding {
        node: args.node_name(),
        node_addresses,
        pod_cidrs: args.pod_cidrs(),
        // A cluster's own controllers hand out addresses of services.
        service_cidrs: if args.kubernetes { Vec::new() } else { args.service_cidrs.clone() },
        cluster: args.cluster.clone(),
        settings: args.settings(),
        first_revision: revision.checked_add(1).unwrap_or(1),
        managed: args.kubernetes,
    };
    let attached = endpoints.iter().filter(|record| record.veth.is_some()).map(registration).collect();
    let state_dir = instance.state_dir();
    let Some(manifests) = args.manifests.clone() else {
        let access = kubernetes::access(args.kubeconfig.as_ref()).await?;
        let options = kubernetes::Options { access, state_dir, surrounding, attached };
        return Ok(Sources::follow_cluster(options).await?);
    };
    let built_in = built_in(instance, args)?;
    let options = sources::Options { manifests, state_dir, surrounding, built_in, attached };
    Ok(tokio::task::spawn_blocking(|| Sources::start(options)).await??)
}

/// The DNS server, if it is wanted. Manifests of the user's that have one come first.
fn built_in(instance: &Instance, args: &NodeArgs) -> anyhow::Result<Vec<serde_json::Value>> {
    if !args.cluster_dns {
        return Ok(Vec::new());
    }
    let heddle = std::env::current_exe().context("cannot find the heddle program itself")?;
    let (name, addresses) = (instance.to_string(), args.dns_addresses());
    Ok(launcher::dns::manifests(&heddle, &name, &addresses, CLUSTER_DOMAIN, &args.dns_upstream))
}

fn base_config(args: &NodeArgs) -> anyhow::Result<Config> {
    let police = args.allow_localhost == Localhost::Policy;
    Ok(Config {
        abi_version: abi::ABI_VERSION,
        node_netns_cookie: Datapath::netns_cookie().context("cannot tell the node's network namespace")?,
        flags: if police { config_flags::POLICE_NODE } else { 0 },
        events_per_second: args.events_per_second,
        tunnel_port: u32::from(args.tunnel_port),
        ..Config::default()
    })
}
