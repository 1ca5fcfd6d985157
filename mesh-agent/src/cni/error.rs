//! Errors of the plugin as the specification wants them (CNI spec 1.1, section 5, "Error").

use std::fmt::Display;

use super::config::Version;

/// Error codes. Those below 100 are the specification's.
pub(super) mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist: the runtime need not clean up.
    pub(crate) const UNKNOWN_CONTAINER: u32 = 3;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO_FAILURE: u32 = 5;
    pub(crate) const DECODE_FAILURE: u32 = 6;
    pub(crate) const INVALID_CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: no ADD can be served.
    pub(crate) const UNAVAILABLE: u32 = 50;
    /// The kernel refused a device, address or route.
    pub(crate) const NETWORK_FAILED: u32 = 100;
    /// The agent understood and refused.
    pub(crate) const AGENT_REFUSED: u32 = 101;
    /// CHECK: the container's network is not what ADD made.
    pub(crate) const CHECK_FAILED: u32 = 102;
}

/// One error: a code, a sentence, and what lies behind it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}: {details}")]
pub(super) struct CniError {
    pub(super) code: u32,
    pub(super) msg: String,
    pub(super) details: String,
}

impl CniError {
    pub(super) fn new(code: u32, msg: impl Into<String>, details: impl Display) -> Self {
        CniError { code, msg: msg.into(), details: details.to_string() }
    }

    pub(super) fn io(doing: &str, error: &std::io::Error) -> Self {
        Self::new(code::IO_FAILURE, doing, error)
    }

    pub(super) fn to_json(&self, version: Version) -> serde_json::Value {
        serde_json::json!({
            "cniVersion": version.name(),
            "code": self.code,
            "msg": self.msg,
            "details": self.details,
        })
    }
}
