//! The canonical form of a host with optional port (RFC 3986 section 3.2, RFC 9110 section 7.2).

use std::borrow::Cow;
use std::net::Ipv6Addr;

#[cfg(test)]
mod tests;

/// Longest accepted host with port in bytes: a DNS name (RFC 1035 section 2.3.4) and `:65535`.
pub const HOST_MAX: usize = 255 + 6;

/// The host is empty, too long, has user info or a port that is none, or a character that no host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid host")]
pub struct HostError;

/// Checks a `Host` value or authority and brings it to lower case. Stricter than RFC 3986: no user info,
/// no percent-encoding, no sub-delimiters, no empty port.
pub fn canonical(host: &[u8]) -> Result<Cow<'_, str>, HostError> {
    let text = std::str::from_utf8(host).map_err(|_| HostError)?;
    if text.is_empty() || text.len() > HOST_MAX {
        return Err(HostError);
    }
    let port = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(HostError)?;
            address.parse::<Ipv6Addr>().map_err(|_| HostError)?;
            if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(HostError)?) }
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(n, p)| (n, Some(p)));
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(HostError);
            }
            port
        }
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || port.parse::<u16>().is_err() {
            return Err(HostError);
        }
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(Cow::Owned(text.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(text))
}
