//! The canonical form of a request path, RFC 3986 section 6.2.2 and stricter.
//!
//! Policy matches this form and the upstream is sent this form, so it does not matter which of the many
//! spellings of a path the upstream would have understood. Spellings that servers are known to disagree
//! about even in canonical form are refused.

use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Does not start with `/`.
    #[error("path does not start with a slash")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    #[error("path has an invalid percent-encoding")]
    Encoding,
    /// An encoded `/`, `\`, control character or overlong UTF-8 sequence.
    #[error("path has a forbidden encoded character")]
    EncodedForbidden,
    /// A raw `\`, `#`, space, control or non-ASCII character.
    #[error("path has a forbidden character")]
    Forbidden,
    /// A dot segment with parameters, `/..;x/`: servlet containers take it for `/../`.
    #[error("path has a dot segment with parameters")]
    DotSegmentParameter,
}

/// Brings path and query to canonical form: unreserved characters decoded, other encodings in upper case,
/// slashes merged, then dot segments removed (RFC 3986 section 5.2.4). The query keeps its bytes.
/// Borrows when nothing changes, which one scan finds out.
pub fn canonical(path_and_query: &str) -> Result<Cow<'_, str>, PathError> {
    let bytes = path_and_query.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let end = bytes.iter().position(|&b| b == b'?').unwrap_or(bytes.len());
    let (path, query) = bytes.split_at(end);
    if query.iter().any(|&b| forbidden(b)) {
        return Err(PathError::Forbidden);
    }
    if is_plain(path) {
        return Ok(Cow::Borrowed(path_and_query));
    }
    let decoded = decode(path)?;
    let mut out = remove_dots(&decoded)?;
    out.extend_from_slice(query);
    // Everything in it is ASCII by now; should that ever be wrong, the request is refused.
    let out = String::from_utf8(out).map_err(|_| PathError::Forbidden)?;
    Ok(Cow::Owned(out))
}

/// Characters that never stand unencoded in a request target, or that servers read differently.
fn forbidden(byte: u8) -> bool {
    !(0x21..=0x7e).contains(&byte) || byte == b'#'
}

/// Whether the path is canonical for sure: nothing encoded, no empty segment, none that starts with a dot.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &b in path {
        if b == b'%' || b == b'\\' || forbidden(b) || (after_slash && (b == b'/' || b == b'.')) {
            return false;
        }
        after_slash = b == b'/';
    }
    true
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|d| d as u8)
}

/// The octet behind `%XX` at the start of `rest`.
fn octet(rest: &[u8]) -> Result<u8, PathError> {
    match rest {
        [b'%', high, low, ..] => {
            let (high, low) = hex(*high).zip(hex(*low)).ok_or(PathError::Encoding)?;
            Ok(high << 4 | low)
        }
        _ => Err(PathError::Encoding),
    }
}

/// Decodes what is unreserved (RFC 3986 section 2.3), keeps the rest encoded in upper case.
fn decode(path: &[u8]) -> Result<Vec<u8>, PathError> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            if byte == b'\\' || forbidden(byte) {
                return Err(PathError::Forbidden);
            }
            out.push(byte);
            rest = tail;
            continue;
        }
        let value = octet(rest)?;
        match value {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(value),
            b'/' | b'\\' | 0..=0x1f | 0x7f => return Err(PathError::EncodedForbidden),
            // Overlong UTF-8: some decoders make `.` or `/` of it.
            0xc0 | 0xc1 => return Err(PathError::EncodedForbidden),
            0xe0 if matches!(octet(&rest[3..]), Ok(0x80..=0x9f)) => {
                return Err(PathError::EncodedForbidden);
            }
            0xf0 if matches!(octet(&rest[3..]), Ok(0x80..=0x8f)) => {
                return Err(PathError::EncodedForbidden);
            }
            _ => out.extend_from_slice(&[
                b'%',
                DIGITS[usize::from(value >> 4)],
                DIGITS[usize::from(value & 15)],
            ]),
        }
        rest = &rest[3..];
    }
    Ok(out)
}

/// Merges slashes and removes dot segments.
fn remove_dots(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut ends_open = false;
    for segment in path.split(|&b| b == b'/') {
        ends_open = true;
        match segment {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            _ if is_dot_with_parameter(segment) => return Err(PathError::DotSegmentParameter),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                ends_open = false;
            }
        }
    }
    if ends_open {
        out.push(b'/');
    }
    Ok(out)
}

fn is_dot_with_parameter(segment: &[u8]) -> bool {
    let name_end = segment
        .iter()
        .position(|&b| b == b';')
        .into_iter()
        .chain(segment.windows(3).position(|w| w == b"%3B"))
        .min();
    matches!(name_end.map(|end| &segment[..end]), Some(b"." | b".."))
}
