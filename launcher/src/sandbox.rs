//! A pod's surroundings: network namespace and link, cgroup, resolv.conf and hosts. What was made is written
//! down first, so that a launcher that comes after a crash can remove it.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, Semaphore};
use tracing::{info, warn};

use crate::names::{PodKey, random_id};
use crate::options::Options;
use crate::plan::PodPlan;
use crate::status::Board;
use crate::{cgroup, cni, netns};

/// Pods connected to the network at the same time.
const PARALLEL_ADDS: usize = 8;
/// File that names what a pod's sandbox consists of.
const RECORD: &str = "sandbox.json";

/// What all pods share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) board: Board,
    adds: Semaphore,
    /// Set once the agent has released what an earlier run left.
    swept: OnceCell<()>,
}

impl Shared {
    pub(crate) fn new(options: Options, board: Board) -> Self {
        Shared { options, board, adds: Semaphore::new(PARALLEL_ADDS), swept: OnceCell::new() }
    }
}

/// Why a pod has no surroundings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("{0}: {1}")]
    Step(String, #[source] io::Error),
    #[error(transparent)]
    Cni(#[from] cni::CniError),
}

/// The surroundings of a running pod.
#[derive(Debug)]
pub(crate) struct Sandbox {
    record: Record,
    /// Descriptions of its containers, and the files mounted into it.
    pub(crate) folder: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) addresses: Vec<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: PodKey,
    uid: String,
    container_id: String,
    /// None for a pod on the node's network.
    netns: Option<PathBuf>,
}

impl Sandbox {
    /// Makes the surroundings; what was made before a failure is removed again.
    pub(crate) async fn create(shared: &Shared, plan: &PodPlan) -> Result<Self, SandboxError> {
        let options = &shared.options;
        let folder = pods_folder(options).join(plan.key.file_name());
        let id = random_id().map_err(|e| SandboxError::Step("making an id".to_owned(), e))?;
        let record = Record {
            key: plan.key.clone(),
            uid: if plan.uid.is_empty() { id.clone() } else { plan.uid.clone() },
            container_id: id,
            netns: (!plan.host_network).then(|| plan.key.netns(&options.instance)),
        };
        let cgroup = options.cgroup.join("pods").join(plan.key.file_name());
        let mut sandbox = Sandbox { record, folder, cgroup, addresses: options.node_addresses.clone() };
        match sandbox.fill(shared, plan).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                if let Err(other) = sandbox.remove(options).await {
                    warn!(pod = %plan.key, error = %other, "cannot remove what was half made");
                }
                Err(error)
            }
        }
    }

    async fn fill(&mut self, shared: &Shared, plan: &PodPlan) -> Result<(), SandboxError> {
        let folder = &self.folder;
        step(|| format!("making {}", folder.display()), fs::create_dir_all(folder))?;
        write(&folder.join(RECORD), &serde_json::to_string(&self.record).unwrap_or_default())?;
        step(|| format!("making cgroup {}", self.cgroup.display()), cgroup::create(&self.cgroup))?;
        if let Some(path) = &self.record.netns {
            let made = netns::create(path);
            step(|| format!("making network namespace {}", path.display()), made)?;
            let _permit = shared.adds.acquire().await;
            shared.swept.get_or_try_init(|| cni::forget_all(&shared.options)).await?;
            if let Some(sandbox) = self.record.cni() {
                self.addresses = cni::add(&shared.options, sandbox).await?;
            }
        }
        let resolv_conf = resolv_conf(plan, &shared.options)
            .map_err(|e| SandboxError::Step("reading the node's /etc/resolv.conf".to_owned(), e))?;
        if let Some(text) = resolv_conf {
            write(&self.folder.join("resolv.conf"), &text)?;
        }
        if !plan.host_network {
            let text = hosts(plan, &self.addresses, &shared.options.cluster_domain);
            write(&self.folder.join("hosts"), &text)?;
        }
        Ok(())
    }

    /// Files to mount over the node's in the pod.
    pub(crate) fn binds(&self) -> Vec<(PathBuf, PathBuf)> {
        let all = ["resolv.conf", "hosts"].map(|name| (self.folder.join(name), Path::new("/etc").join(name)));
        all.into_iter().filter(|(source, _)| source.exists()).collect()
    }

    /// File of the network namespace, if it has one of its own.
    pub(crate) fn netns(&self) -> Option<PathBuf> {
        self.record.netns.clone()
    }

    /// Ends every process and removes everything. May be repeated.
    pub(crate) async fn remove(&self, options: &Options) -> Result<(), SandboxError> {
        let removed = cgroup::remove(&self.cgroup).await;
        step(|| format!("removing cgroup {}", self.cgroup.display()), removed)?;
        self.record.disconnect(options).await?;
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(SandboxError::Step(format!("removing {}", self.folder.display()), e))
            }
            _ => Ok(()),
        }
    }
}

impl Record {
    fn cni(&self) -> Option<cni::Sandbox<'_>> {
        let Record { key, uid, container_id, netns } = self;
        Some(cni::Sandbox { key, uid, container_id, netns: netns.as_deref()? })
    }

    async fn disconnect(&self, options: &Options) -> Result<(), SandboxError> {
        if let Some(sandbox) = self.cni() {
            cni::del(options, sandbox).await?;
            let deleted = netns::delete(sandbox.netns);
            step(|| format!("removing {}", sandbox.netns.display()), deleted)?;
        }
        Ok(())
    }
}

/// Removes what an earlier launcher of this instance left: its processes, namespaces and files.
pub(crate) async fn remove_leftovers(options: &Options) -> Result<(), SandboxError> {
    let cgroups = options.cgroup.join("pods");
    step(|| format!("emptying {}", cgroups.display()), cgroup::remove(&cgroups).await)?;
    let folder = pods_folder(options);
    let Ok(entries) = fs::read_dir(&folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let record = fs::read(entry.path().join(RECORD)).ok();
        if let Some(record) = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok()) {
            info!(pod = %record.key, "removing what an earlier run left");
            // The agent may be away: its part is done by a sweep before the first pod.
            if let (Err(error), Some(path)) = (record.disconnect(options).await, &record.netns) {
                warn!(%error, "the plugin did not disconnect a leftover");
                step(|| format!("removing {}", path.display()), netns::delete(path))?;
            }
        }
        let path = entry.path();
        step(|| format!("removing {}", path.display()), fs::remove_dir_all(&path))?;
    }
    Ok(())
}

/// Where the files of pods are.
pub(crate) fn pods_folder(options: &Options) -> PathBuf {
    options.run_dir.join("pods")
}

/// The text of a pod's resolv.conf; `None`: the node's own serves.
fn resolv_conf(plan: &PodPlan, options: &Options) -> io::Result<Option<String>> {
    let dns = &plan.dns;
    let cluster = dns.cluster && !options.dns_servers.is_empty();
    let own = !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty());
    let node = dns.node || (dns.cluster && !cluster);
    if node && !own {
        return Ok(None);
    }
    let mut text = if node { fs::read_to_string("/etc/resolv.conf")? } else { String::new() };
    let mut searches = dns.searches.clone();
    let mut flags = dns.options.clone();
    if cluster {
        for server in &options.dns_servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let (namespace, domain) = (&plan.key.namespace, &options.cluster_domain);
        let ours = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches.splice(0..0, ours);
        if !flags.iter().any(|flag| flag.starts_with("ndots:")) {
            flags.push("ndots:5".to_owned());
        }
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !flags.is_empty() {
        text.push_str(&format!("options {}\n", flags.join(" ")));
    }
    Ok(Some(text))
}

/// The text of a pod's /etc/hosts.
fn hosts(plan: &PodPlan, addresses: &[IpAddr], domain: &str) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let names = match &plan.subdomain {
        Some(subdomain) => {
            let (host, namespace) = (&plan.hostname, &plan.key.namespace);
            format!("{host}.{subdomain}.{namespace}.svc.{domain} {host}")
        }
        None => plan.hostname.clone(),
    };
    for address in addresses {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    for (address, names) in &plan.host_aliases {
        text.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    text
}

fn write(path: &Path, text: &str) -> Result<(), SandboxError> {
    step(|| format!("writing {}", path.display()), fs::write(path, text))
}

fn step<T>(what: impl FnOnce() -> String, result: io::Result<T>) -> Result<T, SandboxError> {
    result.map_err(|e| SandboxError::Step(what(), e))
}
