use super::{HostError, canonical};

#[test]
fn table() {
    for (input, expected) in [
        ("example.com", Ok("example.com")),
        ("Example.COM:8080", Ok("example.com:8080")),
        ("10.0.0.1:80", Ok("10.0.0.1:80")),
        ("[fd00::1]", Ok("[fd00::1]")),
        ("[FD00::1]:80", Ok("[fd00::1]:80")),
        ("a_b.svc.cluster.local.", Ok("a_b.svc.cluster.local.")),
        ("", Err(HostError)),
        (":80", Err(HostError)),
        ("a:", Err(HostError)),
        ("a:+80", Err(HostError)),
        ("a:65536", Err(HostError)),
        ("a:80:80", Err(HostError)),
        ("user@a", Err(HostError)),
        ("a b", Err(HostError)),
        ("a,b", Err(HostError)),
        ("a/b", Err(HostError)),
        ("a%41", Err(HostError)),
        ("[fd00::1", Err(HostError)),
        ("[fd00::1]80", Err(HostError)),
        ("[fe80::1%25eth0]", Err(HostError)),
        ("[10.0.0.1]", Err(HostError)),
        ("é", Err(HostError)),
    ] {
        assert_eq!(canonical(input.as_bytes()).as_deref(), expected.as_ref().copied(), "{input}");
    }
    assert_eq!(canonical(b"\xff"), Err(HostError));
    assert_eq!(canonical(&[b'a'; 300]), Err(HostError));
}
