//! What the CNI plugin asks for: allocate, ready, release, check, gc. Joins the records on disk, the source's
//! registry of pods, and the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::endpoints::{ALLOCATED_MAX, Endpoints, EndpointsError, Record, Veth, name, unix_seconds};
use super::{Agent, RegisterError};
use crate::cni::{
    AllocateRequest, Allocation, Attachment, CheckRequest, GcRequest, GcResponse, ReadyRequest, monotonic_ms,
};
use crate::node::NodeError;
use crate::publish::Veths;
use crate::publish::maps::Link;

/// How long `ready` waits for the endpoint's policy to be in the kernel. A compilation takes milliseconds,
/// a proxy that does not answer one second; the plugin gives up after 30 s.
const READY_MAX: Duration = Duration::from_secs(20);

/// The records, shared by the API and the publisher.
#[derive(Debug)]
pub struct EndpointTable(Mutex<Endpoints>);

impl EndpointTable {
    pub fn new(endpoints: Endpoints) -> Self {
        Self(Mutex::new(endpoints))
    }

    /// Every call leaves the records whole, also one that panics.
    pub fn lock(&self) -> MutexGuard<'_, Endpoints> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Veths for EndpointTable {
    fn veths(&self) -> BTreeMap<u32, Link> {
        let endpoints = self.lock();
        endpoints.iter().filter_map(|record| Some((record.id, link(record.veth.as_ref()?)))).collect()
    }
}

/// An address that cannot be read is left out: packets then take the way through the node's stack.
fn link(veth: &Veth) -> Link {
    let octets = veth.mac.split(':').map(|octet| u8::from_str_radix(octet, 16).ok());
    let mac = octets.collect::<Option<Vec<u8>>>().and_then(|octets| octets.try_into().ok());
    Link { ifindex: veth.ifindex, mac: mac.unwrap_or_default(), netns_cookie: veth.netns_cookie }
}

/// Why the plugin does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error(transparent)]
    Endpoints(#[from] EndpointsError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the plugin waits no more: nothing is allocated")]
    TooLate,
    #[error("attachment {0} is alive: the container is attached already, DEL comes before another ADD")]
    Attached(String),
    #[error("manifests are still being read: try again")]
    Starting,
    #[error("the policy of pod {pod} was not in the kernel within {READY_MAX:?}: {why}")]
    NotInKernel { pod: String, why: String },
    #[error("interface index {0} is no device of the node: the veth is gone")]
    NoVeth(u32),
    #[error("attachment {attachment}: {what} is {found}, recorded was {recorded}")]
    Differs { attachment: String, what: &'static str, found: String, recorded: String },
}

impl Agent {
    /// Endpoint id, addresses and interface name for a pod whose manifest is known, or will be soon.
    pub async fn allocate(&self, request: &AllocateRequest) -> Result<Allocation, CniError> {
        let known = || self.pods.known(&request.namespace, &request.pod, &request.uid).is_ok();
        let mut source = self.pods.subscribe();
        let arrival = async { while !known() && source.changed().await.is_ok() {} };
        // Whatever ends the waiting, the answer is that of now.
        let _ = timeout(self.pods.arrival_max(), arrival).await;
        let outcome = self.try_allocate(request);
        if let Err(error) = &outcome {
            self.note_attachment(&request.namespace, &request.pod, Some(error));
        }
        outcome
    }

    /// Remembers why a pod cannot be attached, or that it is.
    fn note_attachment(&self, namespace: &str, pod: &str, failure: Option<&CniError>) {
        let mut failures = self.attach_failures.lock().unwrap_or_else(PoisonError::into_inner);
        // Pods whose manifest is gone are nobody's trouble; so there are no more of them than manifests.
        failures.retain(|key, _| {
            key.split_once('/').is_some_and(|(namespace, pod)| self.pods.known(namespace, pod, "").is_ok())
        });
        let key = format!("{namespace}/{pod}");
        match failure {
            Some(error) if self.pods.known(namespace, pod, "").is_ok() => {
                failures.insert(key, (Instant::now(), error.to_string()));
            }
            _ => drop(failures.remove(&key)),
        }
    }

    fn try_allocate(&self, request: &AllocateRequest) -> Result<Allocation, CniError> {
        if self.published.borrow().revision == 0 {
            return Err(CniError::Starting);
        }
        self.pods.known(&request.namespace, &request.pod, &request.uid)?;
        let mut endpoints = self.endpoints.lock();
        // Its link would be replaced, and the pod that has it would lose its network.
        if endpoints.get(&request.attachment).is_some_and(|r| r.veth.is_some() && !vanished(r)) {
            return Err(CniError::Attached(name(&request.attachment)));
        }
        if request.wanted_until_ms.is_some_and(|until| monotonic_ms() > until) {
            return Err(CniError::TooLate);
        }
        let record = endpoints.allocate(request)?;
        drop(endpoints);
        Ok(Allocation {
            endpoint_id: record.id,
            addresses: record.allocated(),
            host_ifname: record.host_ifname,
            mtu: self.mtu,
        })
    }

    /// Takes the veth over; returns once programs and policy are in place.
    pub async fn ready(&self, request: &ReadyRequest) -> Result<(), CniError> {
        let outcome = self.try_ready(request).await;
        let record = self.endpoints.lock().get(&request.attachment).cloned();
        if let Some(record) = record {
            self.note_attachment(&record.namespace, &record.pod, outcome.as_ref().err());
        }
        outcome
    }

    async fn try_ready(&self, request: &ReadyRequest) -> Result<(), CniError> {
        interface_name(request.host_ifindex).ok_or(CniError::NoVeth(request.host_ifindex))?;
        let veth = Veth {
            ifindex: request.host_ifindex,
            mac: request.mac.clone(),
            netns_cookie: request.netns_cookie,
        };
        let record = self.endpoints.lock().set_veth(&request.attachment, veth)?;
        self.pods.known(&record.namespace, &record.pod, &record.uid)?;
        if let Some(plumbing) = &self.plumbing {
            plumbing.prepare_veth(request.host_ifindex, &record.addresses).await?;
        }
        let record = self.first_readiness(record)?;
        self.pods.register(&record);
        self.wake.notify_one();
        let mut published = self.published.clone();
        let in_kernel = published.wait_for(|state| state.endpoints.contains(&record.id));
        if let Ok(Ok(_)) = timeout(READY_MAX, in_kernel).await {
            return Ok(());
        }
        let mine = format!("endpoint {}: ", record.id);
        let problems = self.published.borrow().problems.clone();
        let why = problems.into_iter().find(|p| p.starts_with(&mine) || !p.starts_with("endpoint "));
        let why = why.unwrap_or_else(|| "its manifest is gone or refused".into());
        Err(CniError::NotInKernel { pod: record.pod_key(), why })
    }

    /// What was said of the pod before it was attached; without that, a pod that no probe asks is ready.
    fn first_readiness(&self, record: Record) -> Result<Record, CniError> {
        let said = self.readiness.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.pod_key());
        let ready = said.unwrap_or_else(|| record.ready || !self.pods.has_readiness_probe(&record));
        Ok(self.endpoints.lock().set_ready(&record.attachment, ready)?)
    }

    /// Sets a pod's readiness; false: there is no such pod.
    pub fn set_ready(&self, namespace: &str, pod: &str, ready: bool) -> Result<bool, CniError> {
        let of_pod = |r: &&Record| r.namespace == namespace && r.pod == pod;
        let mut endpoints = self.endpoints.lock();
        let attachments: Vec<_> = endpoints.iter().filter(of_pod).map(|r| r.attachment.clone()).collect();
        for attachment in &attachments {
            let record = endpoints.set_ready(attachment, ready)?;
            if record.veth.is_some() {
                self.pods.register(&record);
            }
        }
        if !attachments.is_empty() {
            return Ok(true);
        }
        let known = self.pods.known(namespace, pod, "").is_ok();
        if known {
            // Names of manifests only, so there are no more of them than pods.
            let mut readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
            readiness.insert(format!("{namespace}/{pod}"), ready);
        }
        Ok(known)
    }

    /// Gives everything back. What is not known is no error.
    pub async fn release(&self, attachment: &Attachment) -> Result<(), CniError> {
        let Some(record) = self.endpoints.lock().get(attachment).cloned() else { return Ok(()) };
        // The programs first: with the entry gone, they drop whatever the pod still sends.
        if let Some(veth) = &record.veth {
            match self.kernel.detach(veth.ifindex).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("pod {}: {error}", record.pod_key()),
                Err(error) => tracing::error!("{error}"),
            }
        }
        self.pods.unregister(&record);
        // Its routes go with it, before another pod gets the address.
        if let Some(plumbing) = &self.plumbing {
            plumbing.remove_link(&record.host_ifname).await?;
        }
        self.endpoints.lock().release(attachment)?;
        self.wake.notify_one();
        tracing::info!("endpoint {} of pod {} is released", record.id, record.pod_key());
        Ok(())
    }

    /// Whether the attachment is as recorded, and enforced.
    pub fn check(&self, request: &CheckRequest) -> Result<(), CniError> {
        let attachment = name(&request.attachment);
        let record = self.endpoints.lock().get(&request.attachment).cloned();
        let record = record.ok_or_else(|| EndpointsError::Unknown(attachment.clone()))?;
        let differs = |what, found: String, recorded: String| {
            Err(CniError::Differs { attachment: attachment.clone(), what, found, recorded })
        };
        let ifindex = record.veth.as_ref().map_or(0, |veth| veth.ifindex);
        if ifindex != request.host_ifindex {
            return differs("the veth's index", request.host_ifindex.to_string(), ifindex.to_string());
        }
        let set = |ips: &[IpAddr]| ips.iter().copied().collect::<BTreeSet<_>>();
        if set(&request.addresses) != set(&record.addresses) {
            let list = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
            return differs("the address", list(&request.addresses), list(&record.addresses));
        }
        if !self.published.borrow().endpoints.contains(&record.id) {
            let why = "see `heddle status`".into();
            return Err(CniError::NotInKernel { pod: record.pod_key(), why });
        }
        Ok(())
    }

    /// Releases every attachment that the runtime no longer has.
    pub async fn gc(&self, request: &GcRequest) -> Result<GcResponse, CniError> {
        let valid: BTreeSet<_> = request.valid.iter().collect();
        let stale: Vec<Record> =
            self.endpoints.lock().iter().filter(|r| !valid.contains(&r.attachment)).cloned().collect();
        let mut removed_host_ifnames = Vec::new();
        for record in stale {
            self.release(&record.attachment).await?;
            removed_host_ifnames.push(record.host_ifname);
        }
        removed_host_ifnames.extend(self.remove_strays().await?);
        Ok(GcResponse { removed_host_ifnames })
    }

    /// Removes the instance's devices that no record speaks of, such as those of a state folder that was lost.
    async fn remove_strays(&self) -> Result<Vec<String>, CniError> {
        let Some(plumbing) = &self.plumbing else { return Ok(Vec::new()) };
        // The devices before the records: what is attached meanwhile has a record and no device here.
        let marked = plumbing.marked_links().await?;
        let known: BTreeSet<String> = self.endpoints.lock().iter().map(|r| r.host_ifname.clone()).collect();
        let mut removed = Vec::new();
        for link in marked.into_iter().filter(|l| l.mark.is_of(&self.instance) && !known.contains(&l.name)) {
            tracing::warn!("device {} ({}) belongs to no endpoint: removed", link.name, link.mark);
            plumbing.remove_link(&link.name).await?;
            removed.push(link.name);
        }
        Ok(removed)
    }

    /// Releases what nobody will ask for any more: pods whose veth has vanished with their namespace, and
    /// allocations that no ADD finished. Follows a veth whose index has changed.
    pub async fn sweep(&self) {
        if let Err(error) = self.remove_strays().await {
            tracing::warn!("devices without an endpoint: {error}");
        }
        let records: Vec<Record> = self.endpoints.lock().iter().cloned().collect();
        for record in records {
            let found = interface_index(&record.host_ifname);
            let result = match (&record.veth, found) {
                (Some(veth), Some(index)) if veth.ifindex != index => {
                    let veth = Veth { ifindex: index, ..veth.clone() };
                    self.wake.notify_one();
                    self.endpoints.lock().set_veth(&record.attachment, veth).map(drop).map_err(Into::into)
                }
                (Some(_), None) => self.release(&record.attachment).await,
                (None, None) if unix_seconds() > record.allocated_at + ALLOCATED_MAX.as_secs() => {
                    self.release(&record.attachment).await
                }
                _ => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!("pod {}: {error}", record.pod_key());
            }
        }
    }
}

/// Whether a pod that was attached has lost its veth, as it does when its network namespace ends.
pub(super) fn vanished(record: &Record) -> bool {
    record.veth.is_some() && interface_index(&record.host_ifname).is_none()
}

fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}
