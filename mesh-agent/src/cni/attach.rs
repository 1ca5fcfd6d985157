//! ADD, DEL and GC: the life of an attachment.

use std::collections::BTreeSet;
use std::fs::File;

use serde_json::Value;

use super::agent::Agent;
use super::config::{Config, Environment};
use super::error::{CniError, code};
use super::link::{self, Ends};
use super::wire::{AllocateRequest, Allocation, Attachment, GcRequest, ReadyRequest};
use super::{deletions, netns, result};
use crate::agent::start::SYSCTLS;
use crate::node::{LinkMark, NodeError, Plumbing};

/// Makes the attachment and returns when its policy is in the kernel. Whatever fails, nothing stays behind.
pub(super) async fn add(
    agent: &Agent,
    environment: &Environment,
    config: &Config,
) -> Result<Value, CniError> {
    let attachment = environment.attachment()?;
    let (namespace, pod, uid) = environment.pod()?;
    let path = environment.netns()?;
    if config.prev_result.is_some() {
        let details = "heddle must be the first plugin of the list: it makes the pod's only link";
        return Err(CniError::new(code::UNSUPPORTED_FIELD, "prevResult is not supported by ADD", details));
    }
    let target = netns::open(&path)?;
    if netns::is_own(&target)? {
        let details = format!("CNI_NETNS is {}", path.display());
        return Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            "the node's own namespace is no pod's",
            details,
        ));
    }
    // Asked before anything is allocated: an attachment that is alive must not be undone below.
    let ifname = attachment.ifname.clone();
    if netns::within(&target, || link::exists(&ifname))? {
        let details = format!("{} in {} exists already", attachment.ifname, path.display());
        return Err(CniError::new(code::NETWORK_FAILED, "the container is attached already", details));
    }
    let wanted_until_ms = Some(agent.gives_up_at_ms());
    let request = AllocateRequest { attachment: attachment.clone(), namespace, pod, uid, wanted_until_ms };
    let allocation = match agent.allocate(&request).await {
        Ok(allocation) => allocation,
        Err(error) => {
            // It may have answered without our hearing it. What it reads from now on, it refuses.
            if error.code == code::TRY_AGAIN_LATER && config.instance.agent_socket().exists() {
                queue_deletion(config, &attachment).ok();
            }
            return Err(error);
        }
    };
    deletions::withdraw(&config.instance.run_dir(), &attachment);
    match connect(agent, config, &attachment, &allocation, &target).await {
        Ok(ends) => {
            let sandbox = path.display().to_string();
            Ok(result::add_result(config.version, &allocation, &ends, &attachment.ifname, &sandbox))
        }
        Err(error) => {
            // The first error is the one to report; what undoing meets, DEL will meet again.
            let _ = link::delete(&allocation.host_ifname).await;
            release(agent, config, &attachment).await.ok();
            Err(error)
        }
    }
}

async fn connect(
    agent: &Agent,
    config: &Config,
    attachment: &Attachment,
    allocation: &Allocation,
    target: &File,
) -> Result<Ends, CniError> {
    if allocation.addresses.is_empty() {
        let details = "its pod address ranges may be used up";
        return Err(CniError::new(code::AGENT_REFUSED, "the agent gave no address", details));
    }
    link::create(allocation, &attachment.ifname, target).await?;
    let pod = netns::within(target, || link::identify(&attachment.ifname))?;
    let host = link::identify(&allocation.host_ifname).await?;
    let ends = Ends { host_index: host.index, host_mac: host.mac, pod_mac: pod.mac };
    let mark = LinkMark::new(&config.instance, attachment);
    plumbing(config)?.mark_link(host.index, &mark).await.map_err(node_failed)?;
    link::set_up_host(allocation, &ends).await?;
    netns::within(target, || link::set_up_pod(allocation, pod.index, &attachment.ifname, &ends))?;
    let ready = ReadyRequest {
        attachment: attachment.clone(),
        host_ifindex: ends.host_index,
        mac: ends.pod_mac.to_string(),
        netns_cookie: netns::within(target, || async { netns::cookie() })?,
    };
    agent.ready(&ready).await?;
    Ok(ends)
}

/// Removes the attachment. Says yes to whatever is gone already (CNI spec 1.1, section 2, "DEL").
///
/// Only the node's end is looked for, by its mark: the pod's end goes with it. CNI_NETNS may be missing by
/// now, or name a namespace that never had the link, or even the node's own.
pub(super) async fn del(agent: &Agent, environment: &Environment, config: &Config) -> Result<(), CniError> {
    let attachment = environment.attachment()?;
    let mark = LinkMark::new(&config.instance, &attachment);
    plumbing(config)?.remove_marked(|link| link.mark == mark).await.map_err(node_failed)?;
    release(agent, config, &attachment).await
}

/// Tells the agent, or leaves it a note if it is away.
async fn release(agent: &Agent, config: &Config, attachment: &Attachment) -> Result<(), CniError> {
    match agent.release(attachment).await {
        Err(error) if error.code == code::TRY_AGAIN_LATER => queue_deletion(config, attachment),
        outcome => outcome,
    }
}

fn queue_deletion(config: &Config, attachment: &Attachment) -> Result<(), CniError> {
    deletions::queue(&config.instance.run_dir(), attachment)
        .map_err(|e| CniError::io("leaving the deletion for the agent", &e))
}

fn plumbing(config: &Config) -> Result<Plumbing, CniError> {
    Plumbing::open(config.instance.run_dir().join(SYSCTLS)).map_err(node_failed)
}

fn node_failed(error: NodeError) -> CniError {
    CniError::new(code::NETWORK_FAILED, "changing the node's devices", error)
}

/// Releases whatever is not in the runtime's list (CNI spec 1.1, section 2, "GC").
pub(super) async fn gc(agent: &Agent, config: &Config) -> Result<(), CniError> {
    let Some(valid) = config.valid_attachments.clone() else {
        let details = "without cni.dev/valid-attachments every pod would lose its network";
        return Err(CniError::new(code::INVALID_CONFIG, "GC without a list", details));
    };
    let valid: BTreeSet<Attachment> = valid.into_iter().collect();
    let removed = agent.gc(&GcRequest { valid: valid.into_iter().collect() }).await?;
    for ifname in removed.removed_host_ifnames {
        link::delete(&ifname).await?;
    }
    Ok(())
}
