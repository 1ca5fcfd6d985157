//! What the runtime hands over: environment variables (CNI spec 1.1, section 2, "Parameters") and the
//! network configuration (section 1, as derived for one plugin by section 3).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{CniError, code};
use super::wire::Attachment;
use crate::layout::Instance;

/// Longest container id accepted: it becomes part of a file name and of a device's alias.
const CONTAINER_ID_MAX: usize = 190;
/// Longest interface name the kernel takes (IFNAMSIZ less the final zero).
const IFNAME_MAX: usize = 15;

/// Versions of the specification that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_4,
    V1_0,
    V1_1,
}

impl Version {
    pub(super) const NEWEST: Version = Version::V1_1;
    const ALL: [Version; 3] = [Version::V0_4, Version::V1_0, Version::V1_1];

    pub(super) fn name(self) -> &'static str {
        match self {
            Version::V0_4 => "0.4.0",
            Version::V1_0 => "1.0.0",
            Version::V1_1 => "1.1.0",
        }
    }

    fn parse(name: &str) -> Result<Self, CniError> {
        let names = Self::ALL.map(Version::name).join(", ");
        Self::ALL.into_iter().find(|version| version.name() == name).ok_or_else(|| {
            let details = format!("cniVersion is {name:?}; this plugin speaks {names}");
            CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", details)
        })
    }

    /// GC and STATUS came with 1.1.
    pub(super) fn at_least_1_1(self, command: &str) -> Result<(), CniError> {
        if self >= Version::V1_1 {
            return Ok(());
        }
        let details = format!("{command} needs cniVersion 1.1.0, the configuration says {}", self.name());
        Err(CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", details))
    }
}

/// Answer to VERSION, which repeats the version it was asked in.
pub(super) fn version_answer(stdin: &[u8]) -> Result<Value, CniError> {
    #[derive(Deserialize)]
    struct Question {
        #[serde(rename = "cniVersion")]
        version: Option<String>,
    }
    // Some runtimes ask with empty input.
    let asked = if stdin.trim_ascii().is_empty() {
        None
    } else {
        serde_json::from_slice::<Question>(stdin).map_err(|e| undecodable(&e))?.version
    };
    let version = asked.as_deref().unwrap_or(Version::NEWEST.name());
    Ok(json!({ "cniVersion": version, "supportedVersions": Version::ALL.map(Version::name) }))
}

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The `CNI_*` variables, unchecked.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) variables: BTreeMap<String, String>,
}

impl Environment {
    pub(super) fn from_process() -> Self {
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            name.starts_with("CNI_").then_some((name, value))
        });
        Environment { variables: ours.collect() }
    }

    fn variable(&self, name: &str) -> Result<&str, CniError> {
        match self.variables.get(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(bad_variable(name, "is missing or empty")),
        }
    }

    pub(super) fn command(&self) -> Result<Command, CniError> {
        Ok(match self.variable("CNI_COMMAND")? {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => return Err(bad_variable("CNI_COMMAND", &format!("is {other:?}"))),
        })
    }

    pub(super) fn attachment(&self) -> Result<Attachment, CniError> {
        let container_id = self.variable("CNI_CONTAINERID")?;
        if container_id.len() > CONTAINER_ID_MAX {
            let length = container_id.len();
            let what = format!("has {length} bytes: {CONTAINER_ID_MAX} at most");
            return Err(bad_variable("CNI_CONTAINERID", &what));
        }
        if !is_name(container_id) {
            let rule = "must start with a letter or digit and hold only those, '_', '.' and '-'";
            return Err(bad_variable("CNI_CONTAINERID", &format!("is {container_id:?}: it {rule}")));
        }
        let ifname = self.variable("CNI_IFNAME")?;
        let bad_character = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.len() > IFNAME_MAX || ifname == "." || ifname == ".." || ifname.contains(bad_character) {
            let rule = "15 bytes at most, no '/', ':' or space";
            return Err(bad_variable("CNI_IFNAME", &format!("is {ifname:?}: {rule}")));
        }
        Ok(Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
    }

    /// Path of the container's network namespace.
    pub(super) fn netns(&self) -> Result<PathBuf, CniError> {
        self.variable("CNI_NETNS").map(PathBuf::from)
    }

    /// The pod's namespace, name and uid from `CNI_ARGS`, as kubelet's runtimes write them.
    pub(super) fn pod(&self) -> Result<(String, String, String), CniError> {
        let args = self.variable("CNI_ARGS")?;
        let pairs: BTreeMap<&str, &str> = args.split(';').filter_map(|pair| pair.split_once('=')).collect();
        let required = |key: &str| {
            let value = pairs.get(key).copied().unwrap_or_default();
            if is_name(value) && value.len() <= 253 {
                return Ok(value.to_owned());
            }
            Err(bad_variable("CNI_ARGS", &format!("holds no valid {key} (it is {args:?})")))
        };
        let uid = pairs.get("K8S_POD_UID").copied().unwrap_or_default().to_owned();
        Ok((required("K8S_POD_NAMESPACE")?, required("K8S_POD_NAME")?, uid))
    }
}

/// The network configuration of this plugin.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) version: Version,
    pub(super) instance: Instance,
    /// What an earlier plugin, or (for CHECK) our own ADD, answered.
    pub(super) prev_result: Option<Value>,
    pub(super) valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConfig {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    instance: Option<String>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl Config {
    /// Keys that we do not know are the runtime's (`capabilities`, `disableGC`, ...) and stay unread.
    pub(super) fn parse(stdin: &[u8], default_instance: &Instance) -> Result<Self, CniError> {
        let raw: RawConfig = serde_json::from_slice(stdin).map_err(|e| undecodable(&e))?;
        // A configuration without a version means 0.1.0 (spec 0.2.0 and before).
        let named = if raw.cni_version.is_empty() { "0.1.0" } else { &raw.cni_version };
        let version = Version::parse(named)?;
        if !is_name(&raw.name) {
            let details = format!("name is {:?}", raw.name);
            return Err(CniError::new(code::INVALID_CONFIG, "the network has no valid name", details));
        }
        let instance = match raw.instance {
            Some(name) => {
                name.parse().map_err(|e| CniError::new(code::INVALID_CONFIG, "field \"instance\"", e))?
            }
            None => default_instance.clone(),
        };
        let valid_attachments = raw.valid_attachments.map(|list| {
            let to_ours = |a: RawAttachment| Attachment { container_id: a.container_id, ifname: a.ifname };
            list.into_iter().map(to_ours).collect()
        });
        Ok(Config { version, instance, prev_result: raw.prev_result, valid_attachments })
    }
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(inner)
}

fn bad_variable(name: &str, what: &str) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, "invalid environment", format!("{name} {what}"))
}

fn undecodable(error: &serde_json::Error) -> CniError {
    CniError::new(code::DECODE_FAILURE, "the configuration on standard input is not valid JSON", error)
}
