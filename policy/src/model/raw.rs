//! The objects as written: field for field what the API says, unknown fields refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::refusal::Fault;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawObject<S> {
    #[serde(rename = "apiVersion")]
    pub(super) api_version: String,
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    #[serde(rename = "metadata", default)]
    pub(super) _metadata: Value,
    pub(super) spec: Option<S>,
    pub(super) specs: Option<Vec<S>>,
    #[serde(rename = "status", default)]
    pub(super) _status: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSelector {
    #[serde(default)]
    pub(super) match_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) match_expressions: Vec<RawExpression>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExpression {
    pub(super) key: String,
    pub(super) operator: String,
    pub(super) values: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSpec {
    pub(super) endpoint_selector: Option<RawSelector>,
    pub(super) node_selector: Option<RawSelector>,
    pub(super) ingress: Option<Vec<RawRule>>,
    pub(super) ingress_deny: Option<Vec<RawRule>>,
    pub(super) egress: Option<Vec<RawRule>>,
    pub(super) egress_deny: Option<Vec<RawRule>>,
    #[serde(default)]
    pub(super) enable_default_deny: RawDefaultDeny,
    #[serde(rename = "labels")]
    pub(super) _labels: Option<Vec<RawLabel>>,
    #[serde(rename = "description")]
    pub(super) _description: Option<String>,
    pub(super) log: Option<RawLog>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDefaultDeny {
    pub(super) ingress: Option<bool>,
    pub(super) egress: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLabel {
    #[serde(rename = "key")]
    _key: String,
    #[serde(rename = "value")]
    _value: Option<String>,
    #[serde(rename = "source")]
    _source: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) value: Option<String>,
}

/// All four kinds of rules in one; which fields a kind has is checked by the reader, so that the message
/// can say where a field belongs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    #[serde(rename = "fromEndpoints")]
    pub(super) from_endpoints: Option<Vec<RawSelector>>,
    #[serde(rename = "fromCIDR")]
    pub(super) from_cidr: Option<Vec<String>>,
    #[serde(rename = "fromCIDRSet")]
    pub(super) from_cidr_set: Option<Vec<RawCidrRule>>,
    #[serde(rename = "fromEntities")]
    pub(super) from_entities: Option<Vec<String>>,
    #[serde(rename = "fromNodes")]
    pub(super) from_nodes: Option<Vec<RawSelector>>,
    #[serde(rename = "fromGroups")]
    pub(super) from_groups: Option<Vec<RawGroup>>,
    #[serde(rename = "fromRequires")]
    pub(super) from_requires: Option<Vec<Value>>,
    #[serde(rename = "toEndpoints")]
    pub(super) to_endpoints: Option<Vec<RawSelector>>,
    #[serde(rename = "toCIDR")]
    pub(super) to_cidr: Option<Vec<String>>,
    #[serde(rename = "toCIDRSet")]
    pub(super) to_cidr_set: Option<Vec<RawCidrRule>>,
    #[serde(rename = "toEntities")]
    pub(super) to_entities: Option<Vec<String>>,
    #[serde(rename = "toNodes")]
    pub(super) to_nodes: Option<Vec<RawSelector>>,
    #[serde(rename = "toGroups")]
    pub(super) to_groups: Option<Vec<RawGroup>>,
    #[serde(rename = "toRequires")]
    pub(super) to_requires: Option<Vec<Value>>,
    #[serde(rename = "toServices")]
    pub(super) to_services: Option<Vec<RawService>>,
    #[serde(rename = "toFQDNs")]
    pub(super) to_fqdns: Option<Vec<RawDnsName>>,
    #[serde(rename = "toPorts")]
    pub(super) to_ports: Option<Vec<RawPortRule>>,
    pub(super) icmps: Option<Vec<RawIcmpRule>>,
    pub(super) authentication: Option<RawAuthentication>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawCidrRule {
    pub(super) cidr: Option<String>,
    pub(super) cidr_group_ref: Option<String>,
    pub(super) cidr_group_selector: Option<RawSelector>,
    #[serde(default)]
    pub(super) except: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGroup {
    #[serde(rename = "aws")]
    _aws: Option<RawAwsGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawAwsGroup {
    #[serde(rename = "labels")]
    _labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "region")]
    _region: Option<String>,
    #[serde(rename = "securityGroupsIds")]
    _security_groups_ids: Option<Vec<String>>,
    #[serde(rename = "securityGroupsNames")]
    _security_groups_names: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawService {
    pub(super) k8s_service: Option<RawServiceName>,
    pub(super) k8s_service_selector: Option<RawServiceSelector>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawServiceName {
    pub(super) service_name: Option<String>,
    #[serde(rename = "namespace")]
    pub(super) _namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServiceSelector {
    pub(super) selector: RawSelector,
    #[serde(rename = "namespace")]
    pub(super) _namespace: Option<String>,
}

/// An element of `toFQDNs` and of `rules.dns`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawDnsName {
    pub(super) match_name: Option<String>,
    pub(super) match_pattern: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuthentication {
    pub(super) mode: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIcmpRule {
    #[serde(default)]
    pub(super) fields: Vec<RawIcmpField>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIcmpField {
    pub(super) family: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPortRule {
    #[serde(default)]
    pub(super) ports: Vec<RawPort>,
    #[serde(rename = "terminatingTLS")]
    pub(super) terminating_tls: Option<RawTls>,
    #[serde(rename = "originatingTLS")]
    pub(super) originating_tls: Option<RawTls>,
    #[serde(rename = "serverNames")]
    pub(super) server_names: Option<Vec<String>>,
    pub(super) listener: Option<RawListener>,
    pub(super) rules: Option<RawL7>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawPort {
    pub(super) port: Option<String>,
    pub(super) end_port: Option<i64>,
    pub(super) protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) secret: RawSecret,
    #[serde(rename = "trustedCA")]
    pub(super) _trusted_ca: Option<String>,
    #[serde(rename = "certificate")]
    pub(super) _certificate: Option<String>,
    #[serde(rename = "privateKey")]
    pub(super) _private_key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSecret {
    pub(super) name: String,
    #[serde(rename = "namespace")]
    pub(super) _namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) name: String,
    pub(super) envoy_config: RawEnvoyConfig,
    pub(super) priority: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEnvoyConfig {
    pub(super) name: String,
    pub(super) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawL7 {
    pub(super) http: Option<Vec<RawHttp>>,
    pub(super) kafka: Option<Vec<RawKafka>>,
    pub(super) dns: Option<Vec<RawDnsName>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    pub(super) host: Option<String>,
    #[serde(default)]
    pub(super) headers: Vec<String>,
    #[serde(default)]
    pub(super) header_matches: Vec<RawHeaderMatch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHeaderMatch {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) secret: Option<RawSecret>,
    pub(super) mismatch: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawKafka {
    pub(super) role: Option<String>,
    pub(super) api_key: Option<String>,
    pub(super) api_version: Option<String>,
    #[serde(rename = "clientID")]
    pub(super) _client_id: Option<String>,
    pub(super) topic: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawNetworkPolicy {
    pub(super) pod_selector: Option<RawSelector>,
    pub(super) policy_types: Option<Vec<String>>,
    pub(super) ingress: Option<Vec<RawNetRule>>,
    pub(super) egress: Option<Vec<RawNetRule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetRule {
    pub(super) from: Option<Vec<RawNetPeer>>,
    pub(super) to: Option<Vec<RawNetPeer>>,
    pub(super) ports: Option<Vec<RawNetPort>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawNetPeer {
    pub(super) pod_selector: Option<RawSelector>,
    pub(super) namespace_selector: Option<RawSelector>,
    pub(super) ip_block: Option<RawIpBlock>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIpBlock {
    pub(super) cidr: String,
    #[serde(default)]
    pub(super) except: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawNetPort {
    pub(super) port: Option<Value>,
    pub(super) end_port: Option<i64>,
    pub(super) protocol: Option<String>,
}

/// Deserialises an object and names the field where that fails. A null below the spec is refused: an empty
/// YAML value there (`fromEndpoints:`) reads as "absent", which opens what was meant to be closed.
pub(super) fn read<S: for<'de> Deserialize<'de>>(
    manifest: &Value,
    api_version: &str,
) -> Result<RawObject<S>, Fault> {
    for field in ["spec", "specs"] {
        if let Some(path) = manifest.get(field).and_then(|v| find_null(v, field)) {
            let reason = "has no value; write [] or {} if that is meant, or leave the field out";
            return Err(Fault::new(path, reason));
        }
    }
    let object: RawObject<S> = serde_path_to_error::deserialize(manifest).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        Fault::new(path, error.into_inner().to_string())
    })?;
    if object.api_version != api_version {
        let reason = format!("{:?}, must be {api_version:?}", object.api_version);
        return Err(Fault::new("apiVersion", reason));
    }
    Ok(object)
}

fn find_null(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Null => Some(path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(i, v)| find_null(v, &format!("{path}[{i}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(k, v)| find_null(v, &format!("{path}.{k}"))),
        _ => None,
    }
}
