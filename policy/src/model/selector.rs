//! Label selectors over canonical label sets (`source:key`), with Cilium's prefix rules.

use std::ops::Bound;

use super::raw::RawSelector;
use super::refusal::Fault;
use crate::snapshot::Labels;

/// Label of the pod's namespace.
pub(crate) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefix of the labels of the pod's namespace.
pub(crate) const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels";
/// Label of the cluster's name.
pub(crate) const CLUSTER: &str = "io.cilium.k8s.policy.cluster";

/// Requirements that must all hold. Without any it selects everything that has labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    pub all: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    source: Source,
    /// With the source (`k8s` where any will do): what is looked up first.
    full_key: String,
    operator: Operator,
}

/// Where a label comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// No prefix or `any:`.
    Any,
    /// `k8s:`, `reserved:`.
    Named(String),
}

/// What must hold of the label's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    In(Vec<String>),
    /// Also holds where the label is absent.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Whether a canonical label set has all that is required.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.all.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether some requirement names this key with source `k8s` or any.
    pub(super) fn names(&self, key: &str) -> bool {
        self.all.iter().any(|r| r.is_k8s_or_any() && r.key() == key)
    }

    /// Whether some requirement names a key below `prefix` with source `k8s` or any.
    pub(super) fn names_below(&self, prefix: &str) -> bool {
        self.all.iter().any(|r| r.is_k8s_or_any() && r.key().starts_with(prefix))
    }

    /// Whether some requirement names a `reserved:` label.
    pub(super) fn names_reserved(&self) -> bool {
        self.all.iter().any(|r| r.full_key.starts_with("reserved:"))
    }

    /// Whether some requirement names this `reserved:` label.
    pub(super) fn names_reserved_as(&self, name: &str) -> bool {
        self.all.iter().any(|r| r.full_key.strip_prefix("reserved:") == Some(name))
    }

    /// Bound to a namespace, whatever it said of `k8s:io.kubernetes.pod.namespace` itself.
    pub(super) fn in_namespace(mut self, namespace: &str) -> Self {
        self.all.retain(|r| {
            !(r.source == Source::Named("k8s".into())
                && r.key() == NAMESPACE
                && matches!(&r.operator, Operator::In(v) if v.len() == 1))
        });
        self.all.push(Requirement::namespace(namespace));
        self
    }

    /// Reads a selector. With `k8s` its keys are plain Kubernetes labels, without sources.
    pub(super) fn read(raw: &RawSelector, path: &str, k8s: bool) -> Result<Self, Fault> {
        let mut all = Vec::new();
        for (key, value) in &raw.match_labels {
            let at = format!("{path}.matchLabels[{key:?}]");
            check_value(value, &at)?;
            let (source, key) = read_key(key, &at, k8s)?;
            all.push(Requirement::new(source, &key, Operator::In(vec![value.clone()])));
        }
        for (i, expression) in raw.match_expressions.iter().enumerate() {
            let at = format!("{path}.matchExpressions[{i}]");
            let (source, key) = read_key(&expression.key, &format!("{at}.key"), k8s)?;
            let values = expression.values.clone().unwrap_or_default();
            let operator = expression.operator.as_str();
            let takes_values = matches!(operator, "In" | "NotIn");
            if takes_values && values.is_empty() {
                let reason = format!("operator {} needs at least one value", expression.operator);
                return Err(Fault::new(format!("{at}.values"), reason));
            }
            if matches!(operator, "Exists" | "DoesNotExist") && !values.is_empty() {
                let reason = format!("operator {} takes no values", expression.operator);
                return Err(Fault::new(format!("{at}.values"), reason));
            }
            for (j, value) in values.iter().enumerate() {
                check_value(value, &format!("{at}.values[{j}]"))?;
            }
            let operator = match expression.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let reason = format!("{other:?} is not one of In, NotIn, Exists, DoesNotExist");
                    return Err(Fault::new(format!("{at}.operator"), reason));
                }
            };
            all.push(Requirement::new(source, &key, operator));
        }
        Ok(Self { all })
    }
}

impl Requirement {
    /// A requirement on the label `key` (without its source).
    pub fn new(source: Source, key: &str, operator: Operator) -> Self {
        let full_key = match &source {
            Source::Any => format!("k8s:{key}"),
            Source::Named(source) => format!("{source}:{key}"),
        };
        Self { source, full_key, operator }
    }

    pub(super) fn namespace(namespace: &str) -> Self {
        Self::new(Source::Named("k8s".into()), NAMESPACE, Operator::In(vec![namespace.to_owned()]))
    }

    pub(super) fn k8s_exists(key: &str) -> Self {
        Self::new(Source::Named("k8s".into()), key, Operator::Exists)
    }

    /// The same requirement on the label of a pod's namespace.
    pub(super) fn of_namespace(self) -> Self {
        Self::new(self.source.clone(), &format!("{NAMESPACE_LABELS}.{}", self.key()), self.operator)
    }

    /// The label's key, without its source.
    fn key(&self) -> &str {
        self.full_key.split_once(':').map_or("", |(_, key)| key)
    }

    fn is_k8s_or_any(&self) -> bool {
        self.full_key.starts_with("k8s:")
    }

    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.full_key).or_else(|| match &self.source {
            Source::Any => self.other_source(labels),
            Source::Named(_) => None,
        });
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => !value.is_some_and(|v| values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    /// The label of this key from another source than `k8s`; few labels have one.
    fn other_source<'a>(&self, labels: &'a Labels) -> Option<&'a String> {
        let key = self.key();
        // ';' follows ':'.
        let before = labels.range::<str, _>((Bound::Unbounded, Bound::Excluded("k8s:")));
        let others = before.chain(labels.range::<str, _>((Bound::Included("k8s;"), Bound::Unbounded)));
        others.into_iter().find(|(k, _)| k.split_once(':').is_some_and(|(_, own)| own == key)).map(|(_, v)| v)
    }
}

/// Splits a key into source and name, and checks both.
fn read_key(key: &str, path: &str, k8s: bool) -> Result<(Source, String), Fault> {
    let (source, name) = match key.split_once(':') {
        Some((source, name)) if !k8s => (source, name),
        Some(_) => return Err(Fault::new(path, format!("{key:?}: a Kubernetes label has no ':'"))),
        None => ("", key),
    };
    let source = match source {
        _ if k8s => Source::Named("k8s".into()),
        "" | "any" => Source::Any,
        "k8s" | "reserved" => Source::Named(source.into()),
        "cidr" | "cidrgroup" | "fqdn" => {
            let reason = format!("{key:?}: addresses and names are chosen by fromCIDR, toCIDR and toFQDNs");
            return Err(Fault::new(path, reason));
        }
        other => {
            let reason = format!("unknown label source {other:?}; known are k8s, reserved and any");
            return Err(Fault::new(path, reason));
        }
    };
    check_key(name, path)?;
    Ok((source, name.to_owned()))
}

/// A qualified name as of Kubernetes: `[prefix/]name`, prefix a DNS subdomain up to 253, name up to 63.
fn check_key(key: &str, path: &str) -> Result<(), Fault> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_ok = prefix.is_none_or(|p| {
        !p.is_empty()
            && p.len() <= 253
            && p.split('.').all(|part| {
                !part.is_empty()
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !part.starts_with('-')
                    && !part.ends_with('-')
            })
    });
    // Namespace labels carry a label with its own prefix behind the first one.
    let name = match prefix {
        _ if key.starts_with(NAMESPACE_LABELS) => name.rsplit('/').next().unwrap_or(name),
        _ => name,
    };
    if prefix_ok && !name.is_empty() && is_label_text(name) {
        return Ok(());
    }
    if key.starts_with(NAMESPACE_LABELS) && !name.is_empty() && is_label_text(name) {
        return Ok(());
    }
    Err(Fault::new(path, format!("{key:?} is not a valid label key")))
}

fn check_value(value: &str, path: &str) -> Result<(), Fault> {
    if value.is_empty() || is_label_text(value) {
        return Ok(());
    }
    let reason = format!(
        "{value:?} is not a valid label value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"
    );
    Err(Fault::new(path, reason))
}

fn is_label_text(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && ends(text.as_bytes().first())
        && ends(text.as_bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
