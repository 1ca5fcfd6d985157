//! Which protocol a client speaks, from its first bytes.

#[cfg(test)]
mod tests;

/// The client connection preface, RFC 9113 section 3.4.
pub const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// They may still become HTTP/2 or HTTP/1.
    NeedMore,
    /// They could start a request line; whether they do, the HTTP/1 parser says.
    Http1,
    /// The whole preface of HTTP/2 with prior knowledge.
    Http2,
    /// No HTTP: the first byte cannot start a method.
    Unknown,
}

/// Tells protocols apart. `bytes` are all bytes received so far.
pub fn detect(bytes: &[u8]) -> Protocol {
    let Some(&first) = bytes.first() else { return Protocol::NeedMore };
    let common = bytes.len().min(H2_PREFACE.len());
    if bytes[..common] == H2_PREFACE[..common] {
        return if common == H2_PREFACE.len() { Protocol::Http2 } else { Protocol::NeedMore };
    }
    // A method is a token (RFC 9110 section 9.1); an empty line may come first (RFC 9112 section 2.2).
    if is_token(first) || matches!(first, b'\r' | b'\n' | b' ') {
        return Protocol::Http1;
    }
    Protocol::Unknown
}

/// `tchar` of RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
