//! Cases as written. Unknown keys are refused: in a test they are mistakes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCase {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) config: RawConfig,
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) endpoints: Vec<RawEndpoint>,
    #[serde(default)]
    pub(super) nodes: Vec<RawNode>,
    #[serde(default)]
    pub(super) apiserver: Vec<String>,
    /// Names and their addresses, for `toFQDNs`, which is not enforced yet.
    #[serde(default, rename = "fqdn")]
    pub(super) _fqdn: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(super) policies: Vec<Value>,
    #[serde(default)]
    pub(super) queries: Vec<RawQuery>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) cluster_name: String,
    pub(super) enforcement: String,
    pub(super) allow_localhost: String,
    pub(super) host_firewall: bool,
    #[serde(rename = "ipv6")]
    pub(super) ipv6: bool,
    #[serde(rename = "cidrMatchNodes")]
    pub(super) cidr_match_nodes: bool,
    pub(super) node_selector_labels: bool,
    pub(super) extended_protocols: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawEndpoint {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) service_account: String,
    #[serde(default)]
    pub(super) ips: Vec<String>,
    #[serde(default)]
    pub(super) ports: Vec<RawNamedPort>,
    #[serde(default)]
    pub(super) reserved: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNamedPort {
    pub(super) name: String,
    pub(super) port: u16,
    #[serde(default)]
    pub(super) protocol: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) local: bool,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ips: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuery {
    pub(super) name: Option<String>,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) protocol: Option<String>,
    pub(super) port: u16,
    pub(super) http: Option<RawHttpRequest>,
    pub(super) dns: Option<String>,
    pub(super) want: Option<String>,
    #[serde(rename = "wantL7")]
    pub(super) want_l7: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttpRequest {
    #[serde(default)]
    pub(super) method: String,
    #[serde(default)]
    pub(super) path: String,
    #[serde(default)]
    pub(super) host: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
}
