use http::{HeaderMap, Request, Version, header};

use super::{HeadError, canonicalise, host, path};
use crate::path::PathError;

fn parts(version: Version, method: &str, uri: &str, headers: &[(&str, &str)]) -> http::request::Parts {
    let mut request = Request::builder().version(version).method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

/// Path, host and the rest of the headers.
type Canonical<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

#[track_caller]
fn check(
    (version, method, uri): (Version, &str, &str),
    headers: &[(&str, &str)],
    expected: Result<Canonical<'_>, HeadError>,
) {
    let mut head = parts(version, method, uri, headers);
    let outcome = canonicalise(&mut head, "10.0.0.1:80".parse().expect("address"));
    match expected {
        Err(error) => assert_eq!(outcome, Err(error), "{method} {uri} {headers:?}"),
        Ok((want_path, want_host, rest)) => {
            outcome.expect("accepted");
            assert_eq!((path(&head.uri), host(&head.uri, &head.headers)), (want_path, want_host));
            let mut got: Vec<(String, String)> = flat(&head.headers);
            got.retain(|(name, _)| name != "host");
            let want: Vec<(String, String)> =
                rest.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            assert_eq!(got, want, "{method} {uri} {headers:?}");
        }
    }
}

fn flat(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

const H1: Version = Version::HTTP_11;
const H2: Version = Version::HTTP_2;

#[test]
fn targets_and_hosts_of_http1() {
    check((H1, "GET", "/a?b"), &[("host", "A:80")], Ok(("/a?b", "a:80", &[])));
    check((H1, "GET", "//x/../y"), &[("host", "a")], Ok(("/y", "a", &[])));
    check((H1, "GET", "http://a/x"), &[("host", "a")], Ok(("/x", "a", &[])));
    check((H1, "GET", "http://a?x"), &[("host", "a")], Ok(("/?x", "a", &[])));
    check((H1, "GET", "http://a"), &[("host", "A")], Ok(("/", "a", &[])));
    check((H1, "OPTIONS", "*"), &[("host", "a")], Ok(("*", "a", &[])));
    check((Version::HTTP_10, "GET", "/"), &[], Ok(("/", "10.0.0.1:80", &[])));
    check((H1, "GET", "/"), &[], Err(HeadError::NoHost));
    check((H1, "GET", "/"), &[("host", "")], Err(HeadError::Host));
    check((H1, "GET", "/"), &[("host", "a@b")], Err(HeadError::Host));
    check((H1, "GET", "/"), &[("host", "a"), ("host", "a")], Err(HeadError::ManyHosts));
    check((H1, "GET", "http://b/"), &[("host", "a")], Err(HeadError::HostMismatch));
    check((H1, "GET", "https://a/"), &[("host", "a")], Err(HeadError::Target));
    check((H1, "GET", "*"), &[("host", "a")], Err(HeadError::Target));
    check((H1, "GET", "a:80"), &[("host", "a:80")], Err(HeadError::Target));
    check((H1, "CONNECT", "a:80"), &[("host", "a:80")], Err(HeadError::Connect));
    check((H1, "GET", "/a%2fb"), &[("host", "a")], Err(HeadError::Path(PathError::EncodedForbidden)));
}

#[test]
fn hosts_of_http2() {
    check((H2, "GET", "http://A/x"), &[], Ok(("/x", "a", &[])));
    check((H2, "GET", "https://a/x"), &[("host", "a")], Ok(("/x", "a", &[])));
    check((H2, "GET", "/x"), &[("host", "a")], Ok(("/x", "a", &[])));
    check((H2, "GET", "/x"), &[], Err(HeadError::NoHost));
    check((H2, "GET", "http://a/x"), &[("host", "b")], Err(HeadError::HostMismatch));
    check((H2, "GET", "http://a/x"), &[("host", "a"), ("host", "a")], Err(HeadError::ManyHosts));
}

#[test]
fn hop_by_hop_fields() {
    check(
        (H1, "GET", "/"),
        &[
            ("host", "a"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "websocket"),
            ("te", "gzip, Trailers"),
            ("x-forwarded-for", "1.2.3.4"),
        ],
        Ok(("/", "a", &[("x-forwarded-for", "1.2.3.4"), ("te", "trailers")])),
    );
    for option in ["host", "Content-Length", "authorization", "a b"] {
        check((H1, "GET", "/"), &[("host", "a"), ("connection", option)], Err(HeadError::ConnectionOption));
    }
    check((H1, "GET", "/"), &[("host", "a"), ("connection", "TE"), ("te", "gzip")], Ok(("/", "a", &[])));
}

#[test]
fn wishes() {
    let wish = |version, headers: &[(&str, &str)]| {
        let mut head = parts(version, "GET", "/", headers);
        let wishes = canonicalise(&mut head, "10.0.0.1:80".parse().expect("address"));
        assert!(!head.headers.contains_key(header::UPGRADE));
        wishes
    };
    let host = ("host", "a");
    let upgrade = ("upgrade", "websocket");
    let of = |headers: &[(&str, &str)]| wish(H1, headers).expect("accepted").upgrade;
    assert_eq!(of(&[host, upgrade, ("connection", "keep-alive, Upgrade")]).expect("wish"), "websocket");
    assert_eq!(of(&[host, upgrade]), None);
    assert_eq!(of(&[host, ("connection", "upgrade")]), None);
    assert_eq!(of(&[host, ("upgrade", "h2c"), ("connection", "upgrade, http2-settings")]), None);
    assert_eq!(of(&[host, upgrade, upgrade, ("connection", "upgrade")]), None);
    let old = wish(Version::HTTP_10, &[host, upgrade, ("connection", "upgrade")]);
    assert_eq!(old.expect("accepted").upgrade, None);

    let expect = |value| wish(H1, &[host, ("expect", value)]).map(|w| w.expect_continue);
    assert_eq!(expect("100-Continue"), Ok(true));
    assert_eq!(expect("200-ok"), Err(HeadError::Expectation));
}
