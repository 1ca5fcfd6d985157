//! What a generated rule speaks about, so that queries can be asked near it.

use super::http::Request;

/// One protocol and port (an ICMP type for ICMP) that a rule names.
pub(crate) type ProtoPort = (&'static str, u16);

/// The flows that a rule was made for. What a query takes from it is what its author thinks the rule
/// covers; the oracle says what it does cover.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hint {
    pub(crate) egress: bool,
    /// Index of the endpoint that the subject selector was made for.
    pub(crate) subject: usize,
    /// Endpoints, addresses and entities in the form of queries. Empty: anybody.
    pub(crate) peers: Vec<String>,
    /// Empty: any.
    pub(crate) ports: Vec<ProtoPort>,
    /// Requests that its HTTP rules are about.
    pub(crate) requests: Vec<Request>,
}
