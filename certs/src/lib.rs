//! Workload certificates: names and keys of workloads, and the requests for certificates made of them.
//!
//! A workload is named by its SPIFFE ID ([`SpiffeId`], `spiffe://<trust domain>/ns/<namespace>/sa/<service
//! account>`), owns a private key that never leaves its node ([`WorkloadKey`]) and asks an authority for a
//! certificate with a signed request ([`CertificateRequest`]). Knows nothing of who signs or of TLS.

mod key;
mod spiffe;

pub use key::{CertificateRequest, KeyError, WorkloadKey};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError, Workload};
