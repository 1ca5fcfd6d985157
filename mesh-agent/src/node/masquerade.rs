//! Pods reach the world under the node's address: the nftables table `inet heddle`.
//!
//! Replies come in under the node's address too and pass the device's program as such; nftables translates
//! them after it. So the table marks what it translated: for the proxy's own connections (whose connection
//! mark says so) as given to the proxy, for all others as translated, which lets them through to the pod's
//! gate and no further.

use std::fmt::Write as _;
use std::io;
use std::process::Stdio;

use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{NodeConfig, NodeError};

const TABLE: &str = "inet heddle";

/// Puts the table in place of what may be there, in one transaction.
pub(super) async fn install(config: &NodeConfig) -> Result<(), NodeError> {
    nft(&script(config)).await
}

/// Removes the table, if there is one.
pub(super) async fn remove() -> Result<(), NodeError> {
    // Declaring it first makes the deletion right whether or not it was there.
    match nft(&format!("table {TABLE}\ndelete table {TABLE}\n")).await {
        // Without the program there is no table of ours.
        Err(NodeError::NftMissing) => Ok(()),
        other => other,
    }
}

/// The table as `nft -f` reads it.
pub(super) fn script(config: &NodeConfig) -> String {
    let excluded: Vec<IpNet> = config.pod_cidrs.iter().chain(&config.not_masqueraded).copied().collect();
    let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for (name, nets) in [("local", &config.pod_cidrs), ("pods", &excluded)] {
        for (family, kind) in [(4, "ipv4_addr"), (6, "ipv6_addr")] {
            set(&mut text, &format!("{name}{family}"), kind, nets, family == 6);
        }
    }
    let (mask, keep) = (abi::mark::MASK, !abi::mark::MASK);
    let (upstream, to_proxy) = (abi::mark::UPSTREAM, abi::mark::TO_PROXY);
    let translated = abi::mark::TRANSLATED;
    // Between pods nothing is ever translated, nor between a pod and the proxy in a Service's place: connection
    // tracking would only cost. (What the proxy has to do with the world is tracked: some of it is translated.)
    for (hook, proxied, pod) in [("prerouting", to_proxy, "saddr"), ("output", upstream, "daddr")] {
        let _ = write!(
            text,
            "
  chain untracked_{hook} {{
    type filter hook {hook} priority raw; policy accept;
    ip saddr @pods4 ip daddr @pods4 notrack
    ip6 saddr @pods6 ip6 daddr @pods6 notrack
    meta mark & {mask:#x} == {proxied:#x} ip {pod} @local4 notrack
    meta mark & {mask:#x} == {proxied:#x} ip6 {pod} @local6 notrack
  }}"
        );
    }
    let _ = write!(
        text,
        "
  chain upstream {{
    type filter hook output priority mangle; policy accept;
    meta mark & {mask:#x} == {upstream:#x} ct mark set ct mark & {keep:#x} | {upstream:#x}
  }}
  chain translated {{
    type filter hook prerouting priority dstnat + 10; policy accept;
    meta mark & {mask:#x} != 0 return
    ct direction original return
    ct status & snat == 0 return
    ip daddr != @local4 return
    ip6 daddr != @local6 return
    ct mark & {mask:#x} == {upstream:#x} meta mark set meta mark & {keep:#x} | {to_proxy:#x} return
    meta mark set meta mark & {keep:#x} | {translated:#x}
  }}
  chain to_world {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"lo\" return
    ip saddr @local4 ip daddr != @pods4 masquerade
    ip6 saddr @local6 ip6 daddr != @pods6 masquerade
  }}
}}
"
    );
    text
}

fn set(text: &mut String, name: &str, kind: &str, nets: &[IpNet], v6: bool) {
    let _ = write!(text, "  set {name} {{ type {kind}; flags interval; auto-merge;");
    let mut nets: Vec<String> = nets
        .iter()
        .filter(|net| matches!(net, IpNet::V6(_)) == v6)
        .map(|net| net.trunc().to_string())
        .collect();
    nets.sort();
    nets.dedup();
    if !nets.is_empty() {
        let _ = write!(text, " elements = {{ {} }};", nets.join(", "));
    }
    text.push_str(" }\n");
}

async fn nft(script: &str) -> Result<(), NodeError> {
    let failed = |error: io::Error| NodeError::Nft(error.to_string());
    let child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NodeError::NftMissing),
        other => other.map_err(failed)?,
    };
    if let Some(mut input) = child.stdin.take() {
        // A program that ends before it has read everything says why on stderr.
        let _ = input.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(NodeError::Nft(message.lines().next().unwrap_or("no message").to_owned()))
}
