//! SPIFFE IDs (SPIFFE-ID standard, section 2): the names that workloads carry in their certificates.
//!
//! Parsing is strict: what the standard does not allow is refused, nothing is normalised, so that equal
//! names are equal strings and no two parsers can read one name differently.

use std::fmt;
use std::str::FromStr;

mod name;
#[cfg(test)]
mod tests;
mod trust_domain;

pub use trust_domain::{TrustDomain, TrustDomainError};

const SCHEME: &str = "spiffe://";
/// Longest ID that may be made or taken, in bytes (section 2.3).
const MAX_ID_BYTES: usize = 2048;

/// A name `spiffe://<trust domain>[/<segment>...]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or a slash before each segment.
    path: String,
}

/// The workload that an ID of the form `/ns/<namespace>/sa/<service account>` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload<'a> {
    pub namespace: &'a str,
    pub service_account: &'a str,
}

impl SpiffeId {
    /// The ID of a service account's workloads. Both names must be valid in Kubernetes (RFC 1123).
    pub fn of_workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        if !name::is_label(namespace) {
            return Err(SpiffeIdError::Namespace(namespace.to_owned()));
        }
        if !name::is_subdomain(service_account) {
            return Err(SpiffeIdError::ServiceAccount(service_account.to_owned()));
        }
        let path = format!("/ns/{namespace}/sa/{service_account}");
        Ok(Self { trust_domain: trust_domain.clone(), path })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The workload, if the path has exactly the form of [`SpiffeId::of_workload`].
    pub fn workload(&self) -> Option<Workload<'_>> {
        let (namespace, rest) = self.path.strip_prefix("/ns/")?.split_once('/')?;
        let service_account = rest.strip_prefix("sa/")?;
        let valid = name::is_label(namespace) && name::is_subdomain(service_account);
        valid.then_some(Workload { namespace, service_account })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(id: &str) -> Result<Self, SpiffeIdError> {
        if id.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(id.len()));
        }
        let rest = id.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = trust_domain.parse()?;
        // The first piece is what stands before the leading slash: nothing.
        for segment in path.split('/').skip(1) {
            check_segment(segment)?;
        }
        Ok(Self { trust_domain, path: path.to_owned() })
    }
}

/// Section 2.2: letters, digits, dots, dashes and underscores; never empty, `.` or `..`. This also leaves no
/// room for percent-encoding, a query or a fragment.
fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    if segment.is_empty() {
        return Err(SpiffeIdError::EmptySegment);
    }
    if segment == "." || segment == ".." {
        return Err(SpiffeIdError::DotSegment);
    }
    match segment.chars().find(|c| !(c.is_ascii_alphanumeric() || ".-_".contains(*c))) {
        Some(character) => Err(SpiffeIdError::PathCharacter(character)),
        None => Ok(()),
    }
}

/// Why a text is no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("{0} bytes are more than the {MAX_ID_BYTES} that a SPIFFE ID may have")]
    TooLong(usize),
    #[error("does not start with {SCHEME}")]
    Scheme,
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    #[error("the path has an empty segment or ends in a slash")]
    EmptySegment,
    #[error("the path has a segment `.` or `..`")]
    DotSegment,
    #[error("the path has the character {0:?}, which is not a letter, digit, dot, dash or underscore")]
    PathCharacter(char),
    #[error("{0:?} is not the name of a namespace")]
    Namespace(String),
    #[error("{0:?} is not the name of a service account")]
    ServiceAccount(String),
}
