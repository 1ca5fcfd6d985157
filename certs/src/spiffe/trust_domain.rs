//! Trust domains (SPIFFE-ID standard, section 2.1): who vouches for a name.

use std::fmt;
use std::str::FromStr;

/// Longest name in bytes (section 2.3).
const MAX_BYTES: usize = 255;

/// The name of a trust domain, such as `cluster.local`: lower-case letters, digits, dots, dashes and
/// underscores. Neither user nor port, as it is no host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, TrustDomainError> {
        if name.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if name.len() > MAX_BYTES {
            return Err(TrustDomainError::TooLong(name.len()));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        match name.chars().find(|c| !allowed(*c)) {
            Some(character) => Err(TrustDomainError::Character(character)),
            None => Ok(Self(name.to_owned())),
        }
    }
}

/// Why a text is no trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustDomainError {
    #[error("the trust domain is empty")]
    Empty,
    #[error("{0} bytes are more than the {MAX_BYTES} that a trust domain may have")]
    TooLong(usize),
    #[error(
        "the trust domain has the character {0:?}, which is not a lower-case letter, digit, dot, dash or underscore"
    )]
    Character(char),
}
