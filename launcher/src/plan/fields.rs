//! Which fields of a pod the launcher honours, which it leaves unread with a warning, and which keep it from
//! running the pod at all: everything else. A field of a later Kubernetes is thus refused, never ignored.

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Map, Value};

use super::FieldError;

/// Honoured, or without meaning for processes (images and their accounts).
const POD: &[&str] = &[
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostNetwork",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "restartPolicy",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "subdomain",
    "terminationGracePeriodSeconds",
];
/// Scheduling and limits: one node, no limits.
const POD_UNREAD: &[&str] = &[
    "affinity",
    "hostIPC",
    "hostPID",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "resources",
    "runtimeClassName",
    "schedulerName",
    "tolerations",
    "topologySpreadConstraints",
];
const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "securityContext",
    "startupProbe",
    "workingDir",
];
const CONTAINER_UNREAD: &[&str] = &[
    "resizePolicy",
    "resources",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
];
const SECURITY: &[&str] = &["allowPrivilegeEscalation", "capabilities", "runAsGroup", "runAsUser"];
const SECURITY_UNREAD: &[&str] = &[
    "appArmorProfile",
    "procMount",
    "readOnlyRootFilesystem",
    "runAsNonRoot",
    "seLinuxOptions",
    "seccompProfile",
];
const POD_SECURITY: &[&str] = &["runAsGroup", "runAsUser"];
const POD_SECURITY_UNREAD: &[&str] = &[
    "appArmorProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsNonRoot",
    "seLinuxChangePolicy",
    "seLinuxOptions",
    "seccompProfile",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];

/// Adds an error for each field that cannot be honoured; gives the warnings.
pub(super) fn check(spec: &PodSpec, errors: &mut Vec<FieldError>) -> Vec<String> {
    let mut warnings = Vec::new();
    // The published types serialise only what is set.
    let Ok(Value::Object(spec)) = serde_json::to_value(spec) else {
        errors.push(FieldError::new("spec", "cannot be read"));
        return warnings;
    };
    let mut level = |object: &Map<String, Value>, path: &str, known: &[&str], unread: &[&str]| {
        for (field, value) in object {
            let path = format!("{path}.{field}");
            if known.contains(&field.as_str()) || is_empty(value) {
                continue;
            }
            if unread.contains(&field.as_str()) {
                warnings.push(format!("{path} has no effect here"));
            } else {
                errors.push(FieldError::new(path, "is not supported by the launcher"));
            }
        }
    };
    level(&spec, "spec", POD, POD_UNREAD);
    if let Some(Value::Object(security)) = spec.get("securityContext") {
        level(security, "spec.securityContext", POD_SECURITY, POD_SECURITY_UNREAD);
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in spec.get(list).and_then(Value::as_array).into_iter().flatten().enumerate() {
            let Some(container) = container.as_object() else { continue };
            let path = format!("spec.{list}[{i}]");
            level(container, &path, CONTAINER, CONTAINER_UNREAD);
            if let Some(Value::Object(security)) = container.get("securityContext") {
                level(security, &format!("{path}.securityContext"), SECURITY, SECURITY_UNREAD);
            }
        }
    }
    warnings
}

/// `volumes: []` and `privileged: false` ask for nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}
