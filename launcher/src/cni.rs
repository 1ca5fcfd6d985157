//! The runtime's side of CNI (spec 1.1): starts the plugin for a pod's network namespace.

use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::names::PodKey;
use crate::options::Options;

/// Name of the link in every pod.
const IFNAME: &str = "eth0";
/// Longest time for one run of the plugin.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the plugin did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    #[error("cannot run the CNI plugin {0}: {1}")]
    Run(String, #[source] std::io::Error),
    #[error("the CNI plugin did not end within {} s", PLUGIN_TIMEOUT.as_secs())]
    Timeout,
    #[error("CNI {command}: {msg}: {details} (code {code})")]
    Refused { command: &'static str, code: u32, msg: String, details: String },
    #[error("CNI {0}: the answer is not a result")]
    Answer(&'static str),
}

/// A pod's place in the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sandbox<'a> {
    pub(crate) key: &'a PodKey,
    pub(crate) uid: &'a str,
    pub(crate) container_id: &'a str,
    pub(crate) netns: &'a Path,
}

/// Connects the pod; its addresses.
pub(crate) async fn add(options: &Options, sandbox: Sandbox<'_>) -> Result<Vec<IpAddr>, CniError> {
    #[derive(Deserialize)]
    struct Answer {
        ips: Vec<Ip>,
    }
    #[derive(Deserialize)]
    struct Ip {
        address: String,
    }
    let answer = run(options, "ADD", Some(sandbox), json!({})).await?;
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| CniError::Answer("ADD"))?;
    let address = |ip: &Ip| ip.address.split('/').next()?.parse().ok();
    let addresses: Option<Vec<IpAddr>> = answer.ips.iter().map(address).collect();
    addresses.filter(|a| !a.is_empty()).ok_or(CniError::Answer("ADD"))
}

/// Disconnects the pod. May be repeated.
pub(crate) async fn del(options: &Options, sandbox: Sandbox<'_>) -> Result<(), CniError> {
    run(options, "DEL", Some(sandbox), json!({})).await.map(drop)
}

/// Releases every attachment that an earlier run left behind. Only before the first ADD.
pub(crate) async fn forget_all(options: &Options) -> Result<(), CniError> {
    run(options, "GC", None, json!({ "cni.dev/valid-attachments": [] })).await.map(drop)
}

async fn run(
    options: &Options,
    command: &'static str,
    sandbox: Option<Sandbox<'_>>,
    mut config: Value,
) -> Result<Vec<u8>, CniError> {
    config["cniVersion"] = json!("1.1.0");
    config["name"] = json!("heddle");
    config["type"] = json!("heddle");
    config["instance"] = json!(options.instance);
    let mut plugin = Command::new(&options.heddle);
    plugin.args(["--instance", &options.instance, "cni"]);
    plugin.env("CNI_COMMAND", command).env("CNI_PATH", options.heddle.parent().unwrap_or(Path::new("/")));
    if let Some(sandbox) = sandbox {
        let PodKey { namespace, name } = sandbox.key;
        plugin.env("CNI_CONTAINERID", sandbox.container_id).env("CNI_IFNAME", IFNAME);
        plugin.env("CNI_NETNS", sandbox.netns);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={}",
            sandbox.uid
        );
        plugin.env("CNI_ARGS", args);
    }
    plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |e| CniError::Run(options.heddle.display().to_string(), e);
    let mut child = plugin.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that ends without reading shows in its output.
        stdin.write_all(config.to_string().as_bytes()).await.ok();
    }
    let waited = timeout(PLUGIN_TIMEOUT, child.wait_with_output()).await;
    let output = waited.map_err(|_| CniError::Timeout)?.map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    #[derive(Deserialize)]
    struct Refusal {
        code: u32,
        msg: String,
        #[serde(default)]
        details: String,
    }
    let refusal = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Refusal {
        code: 0,
        msg: output.status.to_string(),
        details: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    });
    Err(CniError::Refused { command, code: refusal.code, msg: refusal.msg, details: refusal.details })
}
