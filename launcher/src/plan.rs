//! What to run: a Pod, read into the form that the launcher works with. What it cannot do is refused with
//! the path of the field ([`fields`]); what makes no difference here is a warning.

mod env;
mod fields;
mod probes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext};

pub(crate) use env::{Addresses, EnvValue, expand, resolve};
pub(crate) use probes::{Action, ProbePlan};

use crate::names::PodKey;

/// `terminationGracePeriodSeconds` where a pod does not say.
const GRACE_DEFAULT_SECONDS: i64 = 30;
/// Lets the pods of `kube-system` that have it reach the agent's API.
const AGENT_API_ANNOTATION: &str = "heddle.io/agent-api";

/// Capabilities that container runtimes leave to a container; none of them reaches the node.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A field that keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FieldError {
    /// Such as `spec.containers[0].command`.
    pub path: String,
    pub reason: String,
}

impl FieldError {
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        FieldError { path: path.into(), reason: reason.into() }
    }
}

/// A pod as the launcher runs it. Two pods with equal plans need no restart.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    pub(crate) key: PodKey,
    pub(crate) uid: String,
    pub(crate) hostname: String,
    pub(crate) subdomain: Option<String>,
    pub(crate) host_network: bool,
    pub(crate) restart: RestartPolicy,
    pub(crate) grace: Duration,
    pub(crate) init: Vec<ContainerPlan>,
    pub(crate) containers: Vec<ContainerPlan>,
    pub(crate) dns: DnsPlan,
    pub(crate) host_aliases: Vec<(IpAddr, Vec<String>)>,
    pub(crate) agent_api: bool,
    /// Fields that were left unread, for the user to see.
    pub(crate) warnings: Vec<String>,
}

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// `dnsPolicy` and `dnsConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DnsPlan {
    /// Ask the cluster's DNS server (`ClusterFirst`).
    pub(crate) cluster: bool,
    /// Begin with the node's own resolv.conf (`Default`).
    pub(crate) node: bool,
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerPlan {
    pub(crate) name: String,
    /// Command and arguments, `$(VAR)` not yet expanded.
    pub(crate) words: Vec<String>,
    pub(crate) env: Vec<(String, EnvValue)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) startup: Option<ProbePlan>,
    pub(crate) readiness: Option<ProbePlan>,
    pub(crate) liveness: Option<ProbePlan>,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) no_new_privileges: bool,
}

impl PodPlan {
    /// Reads a pod. All that is wrong with it is reported, not just the first.
    pub fn of(pod: &Pod) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let meta = &pod.metadata;
        let Some(spec) = &pod.spec else { return Err(vec![FieldError::new("spec", "is missing")]) };
        let name = meta.name.clone().unwrap_or_default();
        let namespace = meta.namespace.clone().unwrap_or_else(|| "default".to_owned());
        for (path, value, max) in [("metadata.name", &name, 253), ("metadata.namespace", &namespace, 63)] {
            if !is_dns_name(value, max) {
                errors.push(FieldError::new(path, format!("{value:?} is not a name")));
            }
        }
        let warnings = fields::check(spec, &mut errors);
        let containers = |list: &[Container], path: &str, errors: &mut Vec<FieldError>| {
            let plan = |(i, c)| container(c, spec, pod, &format!("{path}[{i}]"), errors);
            list.iter().enumerate().map(plan).collect::<Vec<_>>()
        };
        let init = containers(
            spec.init_containers.as_deref().unwrap_or_default(),
            "spec.initContainers",
            &mut errors,
        );
        let main = containers(&spec.containers, "spec.containers", &mut errors);
        if main.is_empty() {
            errors.push(FieldError::new("spec.containers", "a pod needs a container"));
        }
        let mut names = std::collections::BTreeSet::new();
        for container in init.iter().chain(&main) {
            if !is_dns_name(&container.name, 63) || !names.insert(&container.name) {
                let reason = format!("{:?} is not a name, or is used twice", container.name);
                errors.push(FieldError::new("spec.containers[].name", reason));
            }
        }
        let annotation = meta.annotations.as_ref().and_then(|all| all.get(AGENT_API_ANNOTATION));
        let plan = PodPlan {
            agent_api: namespace == "kube-system" && annotation.is_some_and(|v| v == "true"),
            uid: meta.uid.clone().unwrap_or_default(),
            hostname: spec.hostname.clone().unwrap_or_else(|| name.chars().take(63).collect()),
            key: PodKey { namespace, name },
            subdomain: spec.subdomain.clone(),
            host_network: spec.host_network.unwrap_or(false),
            restart: restart_policy(spec, &mut errors),
            grace: seconds(spec.termination_grace_period_seconds.unwrap_or(GRACE_DEFAULT_SECONDS)),
            init,
            containers: main,
            dns: dns(spec, &mut errors),
            host_aliases: host_aliases(spec, &mut errors),
            warnings,
        };
        if errors.is_empty() { Ok(plan) } else { Err(errors) }
    }

    /// Whether a pod belongs on a node. Pods that name no node belong everywhere.
    pub fn is_for(pod: &Pod, node: &str) -> bool {
        let named = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        named.is_empty() || named == node
    }
}

fn container(
    c: &Container,
    spec: &PodSpec,
    pod: &Pod,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> ContainerPlan {
    let mut words = c.command.clone().unwrap_or_default();
    if words.first().is_none_or(String::is_empty) {
        let reason = "is required: the launcher starts processes and has no images to take a command from";
        errors.push(FieldError::new(format!("{path}.command"), reason));
    }
    words.extend(c.args.clone().unwrap_or_default());
    let mut ports = BTreeMap::new();
    for (i, port) in c.ports.iter().flatten().enumerate() {
        match u16::try_from(port.container_port) {
            Ok(number @ 1..) => {
                ports.extend(port.name.clone().map(|name| (name, number)));
            }
            _ => errors.push(FieldError::new(
                format!("{path}.ports[{i}].containerPort"),
                format!("{} is not a port", port.container_port),
            )),
        }
    }
    let mut probe = |probe: &Option<_>, name: &str| {
        probe.as_ref().and_then(|p| ProbePlan::of(p, name, &ports, &format!("{path}.{name}"), errors))
    };
    let startup = probe(&c.startup_probe, "startupProbe");
    let readiness = probe(&c.readiness_probe, "readinessProbe");
    let liveness = probe(&c.liveness_probe, "livenessProbe");
    let pod_security = spec.security_context.as_ref();
    let security = c.security_context.clone().unwrap_or_default();
    let id = |own: Option<i64>, pods: Option<i64>| own.or(pods).and_then(|id| u32::try_from(id).ok());
    ContainerPlan {
        name: c.name.clone(),
        words,
        env: env::read(c.env.as_deref().unwrap_or_default(), pod, path, errors),
        working_dir: c.working_dir.clone().filter(|dir| !dir.is_empty()),
        ports,
        startup,
        readiness,
        liveness,
        user: id(security.run_as_user, pod_security.and_then(|s| s.run_as_user)),
        group: id(security.run_as_group, pod_security.and_then(|s| s.run_as_group)),
        capabilities: capabilities(&security, path, errors),
        no_new_privileges: security.allow_privilege_escalation == Some(false),
    }
}

/// The default set, less `drop`, plus `add` (which wins, as in container runtimes).
fn capabilities(security: &SecurityContext, path: &str, errors: &mut Vec<FieldError>) -> Vec<String> {
    let full = |name: &String| {
        let upper = name.to_ascii_uppercase();
        if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
    };
    let listed = security.capabilities.clone().unwrap_or_default();
    let drop: Vec<String> = listed.drop.iter().flatten().map(full).collect();
    let add: Vec<String> = listed.add.iter().flatten().map(full).collect();
    for name in drop.iter().chain(&add).filter(|name| *name != "CAP_ALL") {
        if name.parse::<caps::Capability>().is_err() {
            let path = format!("{path}.securityContext.capabilities");
            errors.push(FieldError::new(path, format!("{name} is not a capability")));
        }
    }
    if add.iter().any(|name| name == "CAP_ALL") {
        return caps::all().iter().map(ToString::to_string).collect();
    }
    let keep = |name: &&str| !drop.iter().any(|d| d == *name || d == "CAP_ALL");
    let mut all: Vec<String> =
        CAPABILITIES.iter().filter(|name| keep(name)).map(ToString::to_string).collect();
    all.extend(add);
    all.sort();
    all.dedup();
    all
}

fn restart_policy(spec: &PodSpec, errors: &mut Vec<FieldError>) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        None | Some("Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        Some(other) => {
            let reason = format!("{other:?} is none of Always, OnFailure and Never");
            errors.push(FieldError::new("spec.restartPolicy", reason));
            RestartPolicy::Never
        }
    }
}

fn dns(spec: &PodSpec, errors: &mut Vec<FieldError>) -> DnsPlan {
    let host_network = spec.host_network.unwrap_or(false);
    let mut plan = DnsPlan::default();
    match spec.dns_policy.as_deref() {
        // On the node's network ClusterFirst falls back to Default, as in Kubernetes.
        None | Some("ClusterFirst") => (plan.cluster, plan.node) = (!host_network, host_network),
        Some("ClusterFirstWithHostNet") => plan.cluster = true,
        Some("Default") => plan.node = true,
        Some("None") => {}
        Some(other) => {
            errors.push(FieldError::new("spec.dnsPolicy", format!("{other:?} is not a policy")));
        }
    }
    let config = spec.dns_config.clone().unwrap_or_default();
    plan.servers = config.nameservers.unwrap_or_default();
    plan.searches = config.searches.unwrap_or_default();
    plan.options = config
        .options
        .into_iter()
        .flatten()
        .filter_map(|option| match (option.name?, option.value) {
            (name, Some(value)) => Some(format!("{name}:{value}")),
            (name, None) => Some(name),
        })
        .collect();
    plan
}

fn host_aliases(spec: &PodSpec, errors: &mut Vec<FieldError>) -> Vec<(IpAddr, Vec<String>)> {
    let mut aliases = Vec::new();
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        match alias.ip.parse() {
            Ok(ip) => aliases.push((ip, alias.hostnames.clone().unwrap_or_default())),
            Err(_) => {
                let path = format!("spec.hostAliases[{i}].ip");
                errors.push(FieldError::new(path, format!("{:?} is not an address", alias.ip)));
            }
        }
    }
    aliases
}

fn is_dns_name(name: &str, max: usize) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= max && outer(name.chars().next()) && outer(name.chars().last()) && name.chars().all(inner)
}

/// Negative times count as none.
pub(crate) fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}
