//! One manifest, an untyped value, into a typed object: kind, name, content. Kubernetes' own kinds by the
//! published types, policies by the policy crate.
//!
//! Like `kubectl apply`, and unlike the types alone, it refuses unknown fields: a misspelt one would
//! otherwise be lost in silence.

use std::sync::Arc;

use policy::model;
use policy::snapshot::PolicyObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::object::{Kind, Object, ObjectKey};
use super::problem::Fault;
use super::validate;

/// What a manifest turned out to be.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// In order; `warnings` are about it.
    Valid { key: ObjectKey, object: Object, warnings: Vec<Fault> },
    /// Not valid; `fallback` is what a policy does that was never valid. A policy has a key in any case;
    /// `named` is whether it is its own.
    Refused { key: Option<ObjectKey>, named: bool, fault: Fault, fallback: Option<Object> },
    /// Nothing to us.
    Ignored { namespace: String, name: String, kind: String, reason: String },
}

/// Decodes a manifest (not a list). `place` names an object that does not name itself.
pub fn decode(manifest: &Value, place: &str) -> Decoded {
    let text = |field: &str| manifest.get(field).and_then(Value::as_str).unwrap_or_default();
    let nameless = |path: &str, reason: &str| Decoded::Refused {
        key: None,
        named: false,
        fault: Fault::new(path, reason),
        fallback: None,
    };
    if !manifest.is_object() {
        return nameless("", "not an object: expected a mapping with apiVersion, kind and metadata");
    }
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() {
        return nameless("kind", "missing or not a string");
    }
    match Kind::of(api_version, kind) {
        Ok(kind) => of_kind(kind, manifest, place),
        Err(Some(kind)) => {
            let reason = format!("{api_version:?} is not read; {} is {:?}", kind.name(), kind.api_version());
            refused(kind, manifest, place, Fault::new("apiVersion", reason))
        }
        Err(None) if api_version.is_empty() => nameless("apiVersion", "missing or not a string"),
        Err(None) if is_policy(api_version, kind) => {
            let known = "NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy";
            nameless("kind", &format!("no policy of kind {kind} ({api_version}) is known: use {known}"))
        }
        Err(None) => ignored(api_version, kind, manifest),
    }
}

/// Whether whoever wrote this means to restrict traffic: what we cannot enforce is refused, never ignored.
fn is_policy(api_version: &str, kind: &str) -> bool {
    const GROUPS: [&str; 3] = ["cilium.io", "networking.k8s.io", "policy.networking.k8s.io"];
    let group = api_version.split('/').next().unwrap_or_default();
    let misspelt = ["CiliumNetwork", "CiliumClusterwide"].iter().any(|start| kind.starts_with(start));
    GROUPS.contains(&group) && (kind.contains("Polic") || misspelt)
}

fn ignored(api_version: &str, kind: &str, manifest: &Value) -> Decoded {
    let text = |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let policy = kind.ends_with("Policy") || kind.ends_with("CIDRGroup");
    let reason = if policy { "is NOT enforced" } else { "is ignored" };
    Decoded::Ignored {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        kind: kind.to_owned(),
        reason: format!("kind {kind} of {api_version} is not read, so this object {reason}"),
    }
}

fn of_kind(kind: Kind, manifest: &Value, place: &str) -> Decoded {
    let decoded = key(kind, manifest).and_then(|key| Ok((key, object(kind, manifest)?)));
    match decoded {
        Ok((key, (object, warnings))) => Decoded::Valid { key, object, warnings },
        Err(fault) => refused(kind, manifest, place, fault),
    }
}

/// An object of a known kind that is not valid. A policy without a name of its own gets one, so that it
/// can deny what it was meant for.
pub fn refused(kind: Kind, manifest: &Value, place: &str, fault: Fault) -> Decoded {
    let own = key(kind, manifest).ok();
    if !kind.is_policy() {
        return Decoded::Refused { named: own.is_some(), key: own, fault, fallback: None };
    }
    let named = own.is_some();
    let key = own.unwrap_or_else(|| {
        let namespace = manifest.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = namespace.filter(|n| validate::label_name(n).is_ok()).unwrap_or("default");
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        ObjectKey { kind, namespace: namespace.to_owned(), name: format!("({place})") }
    });
    let fallback = fallback(&key, manifest, &fault);
    Decoded::Refused { key: Some(key), named, fault, fallback: Some(fallback) }
}

/// The name of an object, as its manifest tells it.
pub fn key(kind: Kind, manifest: &Value) -> Result<ObjectKey, Fault> {
    let metadata = manifest.get("metadata").and_then(Value::as_object);
    let metadata = metadata.ok_or_else(|| Fault::new("metadata", "missing or not a mapping"))?;
    let text = |field: &str| match metadata.get(field) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(Fault::new(format!("metadata.{field}"), "not a string")),
    };
    let name = text("name")?;
    if name.is_empty() {
        return Err(Fault::new("metadata.name", "missing (generateName is for the API server only)"));
    }
    validate::name(name).map_err(|reason| Fault::new("metadata.name", reason))?;
    let namespace = match text("namespace")? {
        _ if !kind.is_namespaced() => "",
        "" => "default",
        namespace => namespace,
    };
    if kind.is_namespaced() {
        validate::label_name(namespace).map_err(|reason| Fault::new("metadata.namespace", reason))?;
    }
    Ok(ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}

type Typed = (Object, Vec<Fault>);

fn object(kind: Kind, manifest: &Value) -> Result<Typed, Fault> {
    let quiet = |object| Ok((object, Vec::new()));
    match kind {
        Kind::Namespace => quiet(Object::Namespace(checked(manifest, validate::namespace)?)),
        Kind::Node => quiet(Object::Node(checked(manifest, validate::node)?)),
        Kind::Pod => {
            let mut manifest = manifest.clone();
            quantities_as_text(&mut manifest);
            quiet(Object::Pod(checked(&manifest, validate::pod)?))
        }
        Kind::Service => {
            let service = checked(manifest, validate::service)?;
            let warnings = validate::service_warnings(&service);
            Ok((Object::Service(service), warnings))
        }
        Kind::EndpointSlice => quiet(Object::EndpointSlice(checked(manifest, validate::endpoint_slice)?)),
        Kind::NetworkPolicy | Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            match model::parse(kind.name(), manifest) {
                Ok(policy) => quiet(Object::Policy(Arc::new(policy))),
                Err(refusal) => Err(Fault::new(refusal.path, refusal.reason)),
            }
        }
    }
}

/// Reads a published type and refuses what it does not know.
fn checked<T>(manifest: &Value, validate: fn(&T) -> Result<(), Fault>) -> Result<Arc<T>, Fault>
where
    T: DeserializeOwned + Serialize,
{
    let typed: T = serde_path_to_error::deserialize(manifest)
        .map_err(|error| Fault::new(error.path().to_string(), error.inner().to_string()))?;
    let known = serde_json::to_value(&typed).map_err(|error| Fault::new("", error.to_string()))?;
    if let Some(path) = unknown_field(manifest, &known, "") {
        return Err(Fault::new(path, "unknown field"));
    }
    validate(&typed)?;
    Ok(Arc::new(typed))
}

/// The first field that the typed object lost on its way.
fn unknown_field(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{key}");
            match known.get(key) {
                Some(known) => unknown_field(value, known, &path),
                None if value.is_null() => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(i, (given, known))| unknown_field(given, known, &format!("{path}[{i}]"))),
        _ => None,
    }
}

/// `cpu: 1` is as good as `cpu: "1"` to the API server, but not to the published type.
fn quantities_as_text(manifest: &mut Value) {
    let lists = ["/spec/containers", "/spec/initContainers"];
    for list in lists {
        let Some(containers) = manifest.pointer_mut(list).and_then(Value::as_array_mut) else { continue };
        for field in ["/resources/limits", "/resources/requests"] {
            let amounts = containers.iter_mut().filter_map(|c| c.pointer_mut(field)?.as_object_mut());
            for amount in amounts.flat_map(|map| map.values_mut()).filter(|v| v.is_number()) {
                *amount = Value::String(amount.to_string());
            }
        }
    }
}

/// What a policy does that is refused and was never valid: it denies its subjects.
fn fallback(key: &ObjectKey, manifest: &Value, fault: &Fault) -> Object {
    let kind = key.kind.name();
    let refusal = model::Refusal {
        kind: kind.to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        path: fault.path.clone(),
        reason: fault.reason.clone(),
    };
    // Whatever the manifest has in place of names, the key's are good.
    let spec = |field: &str| manifest.get(field).cloned().unwrap_or_default();
    let named = serde_json::json!({
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": spec("spec"),
        "specs": spec("specs"),
    });
    Object::Policy(Arc::new(model::refused_object(kind, &named, &refusal)))
}

/// A policy that stays in force although its newest version was refused.
pub fn superseded(policy: &PolicyObject, fault: &Fault) -> PolicyObject {
    PolicyObject { refused: Some(fault.to_string()), ..policy.clone() }
}
