//! Environment variables: literal values, fields of the pod, and `$(VAR)` references.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EnvVar, Pod};

use super::FieldError;

/// A variable's value, as far as it is known before the pod has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EnvValue {
    /// May hold `$(VAR)`.
    Text(String),
    /// A field of the pod: nothing in it is expanded.
    Field(String),
    PodIp,
    PodIps,
    HostIp,
    HostIps,
}

/// What is known once the pod has its network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses<'a> {
    pub(crate) pod: &'a [IpAddr],
    pub(crate) host: &'a [IpAddr],
}

/// Reads `env`; `valueFrom.fieldRef` takes the fields that Kubernetes offers.
pub(super) fn read(
    list: &[EnvVar],
    pod: &Pod,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Vec<(String, EnvValue)> {
    let mut variables = Vec::new();
    for (i, variable) in list.iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            errors.push(FieldError::new(format!("{path}.name"), format!("{:?} is no name", variable.name)));
            continue;
        }
        let value = match &variable.value_from {
            None => Ok(EnvValue::Text(variable.value.clone().unwrap_or_default())),
            Some(source) => match &source.field_ref {
                Some(reference) => field(&reference.field_path, pod).ok_or_else(|| {
                    let reason = format!("{:?} is not a field that is known here", reference.field_path);
                    FieldError::new(format!("{path}.valueFrom.fieldRef.fieldPath"), reason)
                }),
                None => Err(FieldError::new(
                    format!("{path}.valueFrom"),
                    "only fieldRef is supported by the launcher",
                )),
            },
        };
        match value {
            Ok(value) => variables.push((variable.name.clone(), value)),
            Err(error) => errors.push(error),
        }
    }
    variables
}

fn field(path: &str, pod: &Pod) -> Option<EnvValue> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref()?);
    let text = |value: Option<&String>| value.cloned().map(EnvValue::Field);
    let or_default = |value: Option<&String>| {
        Some(EnvValue::Field(value.cloned().unwrap_or_else(|| "default".to_owned())))
    };
    let keyed = |prefix: &str, map: Option<&BTreeMap<String, String>>| {
        let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
        // A label that is not there is empty, as in Kubernetes.
        let value = map.and_then(|map| map.get(key)).cloned().unwrap_or_default();
        Some(EnvValue::Field(value))
    };
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => or_default(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "spec.nodeName" => Some(EnvValue::Field(spec.node_name.clone().unwrap_or_default())),
        "spec.serviceAccountName" => or_default(spec.service_account_name.as_ref()),
        "status.podIP" => Some(EnvValue::PodIp),
        "status.podIPs" => Some(EnvValue::PodIps),
        "status.hostIP" => Some(EnvValue::HostIp),
        "status.hostIPs" => Some(EnvValue::HostIps),
        _ => keyed("metadata.labels", meta.labels.as_ref())
            .or_else(|| keyed("metadata.annotations", meta.annotations.as_ref())),
    }
}

/// The variables' final values, in the order of the manifest: each may refer to those before it.
pub(crate) fn resolve(
    variables: &[(String, EnvValue)],
    addresses: Addresses<'_>,
    base: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = base;
    let first = |list: &[IpAddr]| list.first().map(ToString::to_string).unwrap_or_default();
    let joined = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    for (name, value) in variables {
        let value = match value {
            EnvValue::Text(text) => expand(text, &all),
            EnvValue::Field(text) => text.clone(),
            EnvValue::PodIp => first(addresses.pod),
            EnvValue::PodIps => joined(addresses.pod),
            EnvValue::HostIp => first(addresses.host),
            EnvValue::HostIps => joined(addresses.host),
        };
        all.insert(name.clone(), value);
    }
    all
}

/// Replaces `$(NAME)` by the variable's value. `$$` is one dollar sign, and a name that is unknown stays as
/// it is written (Kubernetes API, `Container.command`).
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}
