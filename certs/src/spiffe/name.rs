//! Names of Kubernetes objects (RFC 1123, as the API server checks them).

/// Longest DNS label in bytes.
const MAX_LABEL_BYTES: usize = 63;
/// Longest DNS subdomain in bytes.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// Whether `name` can name a namespace.
pub(super) fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL_BYTES && is_part(name)
}

/// Whether `name` can name a service account.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN_BYTES && name.split('.').all(is_part)
}

fn is_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}
