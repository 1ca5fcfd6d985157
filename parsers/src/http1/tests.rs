use super::{Framer, Stop, Violation};

/// Feeds `input` whole and split at every point; all must agree.
#[track_caller]
fn check(input: &str, expected: (usize, Option<Stop>)) {
    let bytes = input.as_bytes();
    assert_eq!(Framer::default().feed(bytes), expected, "whole: {input:?}");
    for at in 0..bytes.len() {
        let mut framer = Framer::default();
        let (first, second) = bytes.split_at(at);
        let mut outcome = framer.feed(first);
        if outcome.1.is_none() {
            let (taken, stop) = framer.feed(second);
            outcome = (outcome.0 + taken, stop);
        }
        assert_eq!(outcome.1, expected.1, "split at {at}: {input:?}");
        // A line that came in pieces was let through up to the piece that ended it.
        assert!(outcome.0 >= expected.0, "split at {at}: {input:?}");
        if !matches!(expected.1, Some(Stop::Bad(_))) {
            assert_eq!(outcome.0, expected.0, "split at {at}: {input:?}");
        }
    }
}

#[track_caller]
fn good(input: &str) {
    check(input, (input.len(), None));
}

#[track_caller]
fn bad(accepted: &str, rest: &str, violation: Violation) {
    check(&format!("{accepted}{rest}"), (accepted.len(), Some(Stop::Bad(violation))));
}

#[test]
fn good_messages() {
    good("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    good("GET / HTTP/1.0\r\n\r\n");
    good("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    good("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n\r\n");
    good("POST / HTTP/1.1\r\nContent-Length:0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    good("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n");
    good("POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nx: y\r\n\r\n");
    good("POST / HTTP/1.1\r\nContent-Length: 14\r\n\r\n\nbare\nlf\r\nhere");
}

#[test]
fn refused_framing() {
    use Violation::*;
    let start = "POST / HTTP/1.1\r\nHost: a\r\n";
    bad(start, "x: y\n\r\n", BareLf);
    bad("", "GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf);
    bad("", "GET /\r\n", RequestLine);
    bad("", "GET / HTTP/2.0\r\n", RequestLine);
    bad("", "GET / HTTP/1.1 \r\n", RequestLine);
    bad("", "GET /a#b HTTP/1.1\r\n", RequestLine);
    bad("\r\n\r\n\r\n\r\n", "\r\n", EmptyLines);
    for value in ["", "+5", "-1", "0x5", "5,5", "5 5", "5;", "99999999999999999999", "five", "\u{b}5"] {
        bad(start, &format!("Content-Length: {value}\r\n"), ContentLength);
    }
    let with_length = format!("{start}Content-Length: 5\r\n");
    bad(&with_length, "Content-Length: 5\r\n", ContentLength);
    bad(&with_length, "content-length: 6\r\n", ContentLength);
    bad(&with_length, "Transfer-Encoding: chunked\r\n", LengthAndEncoding);
    for value in
        ["", "gzip", "xchunked", "chunked, identity", "identity, chunked", "\u{b}chunked", "chunked,"]
    {
        bad(start, &format!("Transfer-Encoding: {value}\r\n"), TransferEncoding);
    }
    let chunked = format!("{start}Transfer-Encoding: chunked\r\n");
    bad(&chunked, "Transfer-Encoding: chunked\r\n", TransferEncoding);
    bad(&chunked, "Content-Length: 5\r\n", LengthAndEncoding);
    bad("POST / HTTP/1.0\r\n", "Transfer-Encoding: chunked\r\n", TransferEncoding);
}

#[test]
fn refused_chunks_and_trailers() {
    let start = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for size in ["", "0x5", "g", "-1", " 5", "5 ", "5 ;x", "10000000000000000", "5;\u{1}", "5;\rx"] {
        bad(start, &format!("{size}\r\n"), Violation::Chunk);
    }
    bad(start, &format!("1;{}\r\n", "x".repeat(300)), Violation::Chunk);
    bad(start, "5\nhello\r\n", Violation::BareLf);
    bad(&format!("{start}5\r\nhello"), "x\r\n", Violation::Chunk);
    bad(&format!("{start}5\r\nhello"), "\n", Violation::BareLf);
    for name in ["Content-Length", "transfer-encoding", "HOST", "Authorization"] {
        bad(&format!("{start}0\r\n"), &format!("{name}: 1\r\n"), Violation::Trailer);
    }
}

#[test]
fn holds_after_a_switch() {
    let head = "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    check(&format!("{head}GET / HTTP/1.1\r\n"), (head.len(), Some(Stop::Hold)));
    let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    check(&format!("{connect}hello"), (connect.len(), Some(Stop::Hold)));

    let mut framer = Framer::default();
    assert_eq!(framer.feed(head.as_bytes()), (head.len(), None));
    assert!(framer.is_held());
    framer.resume();
    assert_eq!(framer.feed(b"GET / HTTP/1.1\r\n"), (16, None));
    assert!(framer.in_head());

    let mut framer = Framer::default();
    framer.feed(head.as_bytes());
    framer.raw();
    assert_eq!(framer.feed(b"\0\n\xff"), (3, None));
}
