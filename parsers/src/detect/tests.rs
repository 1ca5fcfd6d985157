use super::{H2_PREFACE, Protocol, detect};

#[test]
fn table() {
    for (input, expected) in [
        (&b""[..], Protocol::NeedMore),
        (b"P", Protocol::NeedMore),
        (b"PR", Protocol::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Protocol::NeedMore),
        (H2_PREFACE, Protocol::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSX", Protocol::Http1),
        (b"POST", Protocol::Http1),
        (b"GET / HTTP/1.1\r\n", Protocol::Http1),
        (b"\r\nGET", Protocol::Http1),
        (b"\x16\x03\x01", Protocol::Unknown),
        (b"\0", Protocol::Unknown),
        (b"\xff", Protocol::Unknown),
        (b"{", Protocol::Unknown),
    ] {
        assert_eq!(detect(input), expected, "{input:?}");
    }
}
