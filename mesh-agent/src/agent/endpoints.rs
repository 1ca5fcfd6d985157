//! The pods that the CNI plugin attached: one record each, on disk before the plugin hears of it, so that a
//! restarted agent knows what lives. Owns endpoint ids and addresses ([`Ipam`]); knows nothing of policy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ipam::{Cursor, Ipam, IpamError};
use super::state::{self, StateError};
use crate::cni::{AllocateRequest, AllocatedAddress, Attachment};
use crate::node::{GATEWAY_V4, GATEWAY_V6};

/// Name of the file in the instance's state folder.
pub const FILE: &str = "endpoints.json";
/// How long an attachment may stay allocated without a veth before it is given up: far longer than any ADD.
pub const ALLOCATED_MAX: Duration = Duration::from_secs(300);

/// One attached pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Node-local endpoint id, 1 or more.
    pub id: u32,
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub addresses: Vec<IpAddr>,
    pub host_ifname: String,
    /// Set by `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veth: Option<Veth>,
    /// Whether whoever runs the pod calls it ready.
    #[serde(default)]
    pub ready: bool,
    /// Seconds since the Unix epoch.
    pub allocated_at: u64,
}

/// The host's end of an attached pod's veth pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veth {
    pub ifindex: u32,
    /// Of the pod's end.
    pub mac: String,
    /// Of the pod's network namespace; 0 in records of earlier versions: its connects to services are then
    /// not translated.
    #[serde(default)]
    pub netns_cookie: u64,
}

impl Record {
    /// `namespace/name`, as the snapshot calls the pod.
    pub fn pod_key(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// The addresses with their gateways, as the plugin wants them.
    pub fn allocated(&self) -> Vec<AllocatedAddress> {
        let gateway = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
            IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
        };
        self.addresses.iter().map(|ip| AllocatedAddress { ip: *ip, gateway: gateway(ip) }).collect()
    }
}

/// What is on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    /// Last endpoint id given out.
    last_id: u32,
    #[serde(default)]
    cursors: Vec<Cursor>,
    endpoints: Vec<Record>,
}

/// All records, and the file that holds them.
#[derive(Debug)]
pub struct Endpoints {
    path: PathBuf,
    records: BTreeMap<Attachment, Record>,
    last_id: u32,
    /// Of the last run, until `ipam` is there.
    cursors: Vec<Cursor>,
    ipam: Option<Ipam>,
}

/// Why an attachment cannot be made or changed. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum EndpointsError {
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error("cannot keep the endpoint: {0}")]
    State(#[from] StateError),
    #[error("this node has {} endpoints, the most it can carry: release some", abi::MAX_ENDPOINTS)]
    TooMany,
    #[error("attachment {0} is not known: ADD did not allocate it, or it was released")]
    Unknown(String),
    #[error("attachment {0} belongs to pod {1}, not to {2}")]
    OtherPod(String, String, String),
}

impl Endpoints {
    /// Reads the records of the last run. New pods need [`use_pod_cidrs`](Self::use_pod_cidrs) first.
    pub fn open(dir: &std::path::Path) -> Result<Self, EndpointsError> {
        let path = dir.join(FILE);
        let file: File = state::read(&path)?.unwrap_or_default();
        let records = file.endpoints.into_iter().map(|r| (r.attachment.clone(), r)).collect();
        Ok(Self { path, records, last_id: file.last_id, cursors: file.cursors, ipam: None })
    }

    /// Sets the ranges that new pods get addresses from. Pods that are there keep theirs.
    pub fn use_pod_cidrs(&mut self, pod_cidrs: &[IpNet]) -> Result<(), EndpointsError> {
        let mut ipam = Ipam::new(pod_cidrs, &self.cursors())?;
        self.records.values().flat_map(|record| &record.addresses).for_each(|ip| ipam.adopt(*ip));
        self.ipam = Some(ipam);
        Ok(())
    }

    fn cursors(&self) -> Vec<Cursor> {
        self.ipam.as_ref().map_or_else(|| self.cursors.clone(), Ipam::cursors)
    }

    /// Every record.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// One record.
    pub fn get(&self, attachment: &Attachment) -> Option<&Record> {
        self.records.get(attachment)
    }

    /// Gives an attachment its endpoint id and addresses; the same ones if it is asked twice.
    pub fn allocate(&mut self, request: &AllocateRequest) -> Result<Record, EndpointsError> {
        let key = format!("{}/{}", request.namespace, request.pod);
        if let Some(record) = self.records.get(&request.attachment) {
            if record.pod_key() != key {
                return Err(EndpointsError::OtherPod(name(&request.attachment), record.pod_key(), key));
            }
            return Ok(record.clone());
        }
        if self.records.len() >= abi::MAX_ENDPOINTS as usize {
            return Err(EndpointsError::TooMany);
        }
        let record = Record {
            attachment: request.attachment.clone(),
            id: self.free_id(),
            namespace: request.namespace.clone(),
            pod: request.pod.clone(),
            uid: request.uid.clone(),
            addresses: self.ipam.as_mut().ok_or(IpamError::NoPool)?.allocate()?,
            host_ifname: self.free_ifname(&request.attachment),
            veth: None,
            ready: false,
            allocated_at: unix_seconds(),
        };
        self.last_id = record.id;
        self.records.insert(request.attachment.clone(), record.clone());
        if let Err(error) = self.save() {
            self.forget(&request.attachment);
            return Err(error);
        }
        Ok(record)
    }

    /// Notes the veth of an attachment.
    pub fn set_veth(&mut self, attachment: &Attachment, veth: Veth) -> Result<Record, EndpointsError> {
        self.change(attachment, |record| record.veth = Some(veth))
    }

    /// Notes whether a pod is ready.
    pub fn set_ready(&mut self, attachment: &Attachment, ready: bool) -> Result<Record, EndpointsError> {
        self.change(attachment, |record| record.ready = ready)
    }

    fn change(
        &mut self,
        attachment: &Attachment,
        change: impl FnOnce(&mut Record),
    ) -> Result<Record, EndpointsError> {
        let unknown = || EndpointsError::Unknown(name(attachment));
        let record = self.records.get_mut(attachment).ok_or_else(unknown)?;
        let before = record.clone();
        change(record);
        let after = record.clone();
        if after != before
            && let Err(error) = self.save()
        {
            self.records.insert(attachment.clone(), before);
            return Err(error);
        }
        Ok(after)
    }

    /// Gives everything of an attachment back. `None`: it was not known, which is no error (CNI DEL).
    pub fn release(&mut self, attachment: &Attachment) -> Result<Option<Record>, EndpointsError> {
        let Some(record) = self.forget(attachment) else { return Ok(None) };
        if let Err(error) = self.save() {
            if let Some(ipam) = &mut self.ipam {
                record.addresses.iter().for_each(|ip| ipam.adopt(*ip));
            }
            self.records.insert(attachment.clone(), record);
            return Err(error);
        }
        Ok(Some(record))
    }

    fn forget(&mut self, attachment: &Attachment) -> Option<Record> {
        let record = self.records.remove(attachment)?;
        if let Some(ipam) = &mut self.ipam {
            record.addresses.iter().for_each(|ip| ipam.release(*ip));
        }
        Some(record)
    }

    fn save(&self) -> Result<(), EndpointsError> {
        let file = File {
            last_id: self.last_id,
            cursors: self.cursors(),
            endpoints: self.records.values().cloned().collect(),
        };
        Ok(state::write(&self.path, &file)?)
    }

    /// The next number that no endpoint has; a number rests before it is used again.
    fn free_id(&self) -> u32 {
        let taken = |id: u32| self.records.values().any(|record| record.id == id);
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !taken(id) {
                return id;
            }
        }
    }

    /// `hdl` and eight hexadecimal digits of the attachment's hash; the next number if another has it.
    fn free_ifname(&self, attachment: &Attachment) -> String {
        let taken = |name: &String| self.records.values().any(|record| record.host_ifname == *name);
        let mut number = fnv1a(&name(attachment));
        loop {
            let name = format!("hdl{number:08x}");
            if !taken(&name) {
                return name;
            }
            number = number.wrapping_add(1);
        }
    }
}

/// An attachment as errors name it.
pub fn name(attachment: &Attachment) -> String {
    format!("{}/{}", attachment.container_id, attachment.ifname)
}

/// FNV-1a, 32 bits: spreads names over interface names; nothing depends on its being hard to collide.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Seconds since the Unix epoch.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
