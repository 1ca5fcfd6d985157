use proptest::prelude::*;

use super::{PathError, canonical};

#[track_caller]
fn check(input: &str, expected: Result<&str, PathError>) {
    assert_eq!(canonical(input).as_deref(), expected.as_ref().copied(), "{input}");
}

#[test]
fn canonical_form() {
    for (input, expected) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/a?x=//../%2f", "/a?x=//../%2f"),
        ("//admin", "/admin"),
        ("/./admin", "/admin"),
        ("/public/../admin", "/admin"),
        ("/public/%2e%2e/admin", "/admin"),
        ("/public/%2E./admin", "/admin"),
        ("/public/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/../../admin", "/admin"),
        ("/a//../b", "/b"),
        ("/%61dmin", "/admin"),
        ("/%7euser", "/~user"),
        ("/%c3%a9", "/%C3%A9"),
        ("/%252e%252e/", "/%252e%252e/"),
        ("/admin%3F", "/admin%3F"),
        ("/admin%20", "/admin%20"),
        ("/admin;a=b", "/admin;a=b"),
        ("/admin.", "/admin."),
        ("/...", "/..."),
        ("/..a/b", "/..a/b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/Admin", "/Admin"),
        ("/admin?", "/admin?"),
    ] {
        check(input, Ok(expected));
    }
}

#[test]
fn refused() {
    use PathError::*;
    for (input, expected) in [
        ("", NotAbsolute),
        ("admin", NotAbsolute),
        ("*", NotAbsolute),
        ("/a%2fb", EncodedForbidden),
        ("/a%2Fb", EncodedForbidden),
        ("/a%5cb", EncodedForbidden),
        ("/a%00", EncodedForbidden),
        ("/a%0d%0a", EncodedForbidden),
        ("/a%7F", EncodedForbidden),
        ("/%c0%ae", EncodedForbidden),
        ("/%e0%80%ae", EncodedForbidden),
        ("/%f0%80%80%ae", EncodedForbidden),
        ("/a\\b", Forbidden),
        ("/a#x", Forbidden),
        ("/a?b#x", Forbidden),
        ("/a b", Forbidden),
        ("/é", Forbidden),
        ("/%", Encoding),
        ("/%2", Encoding),
        ("/%u002e", Encoding),
        ("/%zz", Encoding),
        ("/..;/admin", DotSegmentParameter),
        ("/.;/admin", DotSegmentParameter),
        ("/%2e%2e;a=b/admin", DotSegmentParameter),
        ("/..%3b/admin", DotSegmentParameter),
    ] {
        check(input, Err(expected));
    }
}

#[test]
fn every_encoded_octet_is_refused_or_stable() {
    for octet in 0..=255u8 {
        let input = format!("/x%{octet:02x}y");
        if let Ok(once) = canonical(&input) {
            check(&once, Ok(&once));
        }
    }
}

proptest! {
    #[test]
    fn canonical_twice_is_canonical(path in "/[a-c./;%2eE5cfF0?\\\\]{0,24}") {
        if let Ok(once) = canonical(&path) {
            prop_assert_eq!(canonical(&once), Ok(once.as_ref().into()));
            let only_path = once.split('?').next().unwrap_or_default();
            prop_assert!(!only_path.contains("//"));
            prop_assert!(!only_path.split('/').any(|s| s == "." || s == ".."));
        }
    }
}
