use std::collections::BTreeSet;

use abi::Direction;

use super::pattern::Pattern;
use super::*;

/// Headers as pairs.
#[derive(Debug)]
struct Pairs<'a>(&'a [(&'a str, &'a str)]);

impl Headers for Pairs<'_> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (_, value) in self.0.iter().filter(|(n, _)| *n == name) {
            if !visit(value.as_bytes()) {
                break;
            }
        }
    }
}

fn rule(method: &str, path: &str) -> HttpRule {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    HttpRule { method: text(method), path: text(path), ..HttpRule::default() }
}

fn with_header(name: &str, value: Option<&str>, mismatch: MismatchAction) -> HttpRule {
    let header = HeaderRule { name: name.into(), value: value.map(Into::into), mismatch };
    HttpRule { headers: vec![header], ..HttpRule::default() }
}

fn set(peers: Option<&[u32]>, ports: (u16, u16), rule: u32, http: Vec<HttpRule>) -> L7RuleSet {
    let peers = peers.map(|p| p.iter().copied().collect::<BTreeSet<u32>>());
    L7RuleSet { direction: Direction::Ingress, peers, ports, rule, http }
}

fn policy(http: Vec<HttpRule>) -> L7Policy {
    L7Policy::new(&[set(None, (80, 80), 7, http)]).unwrap()
}

fn ask(policy: &L7Policy, method: &str, path: &str, headers: &[(&str, &str)]) -> L7Verdict {
    ask_peer(policy, 1000, 80, method, path, headers)
}

fn ask_peer(
    policy: &L7Policy,
    peer: u32,
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> L7Verdict {
    let request = RequestHead { method, path, host: "shop.example:8080", headers: &Pairs(headers) };
    policy.decide(Direction::Ingress, peer, port, &request)
}

fn allowed(verdict: &L7Verdict) -> bool {
    matches!(verdict, L7Verdict::Allow { .. })
}

fn why(verdict: L7Verdict) -> String {
    match verdict {
        L7Verdict::Deny { why, .. } => why,
        L7Verdict::Allow { .. } => "allowed".to_owned(),
    }
}

#[test]
fn expressions_are_bound_to_both_ends() {
    let check = |pattern: &str, value: &str, expected: bool| {
        let pattern_ = Pattern::new(Some(pattern)).unwrap();
        assert_eq!(pattern_.matches(value), expected, "{pattern:?} {value:?} {pattern_:?}");
        // However it is matched, the outcome is that of the regex engine.
        let regex = regex::bytes::Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
        assert_eq!(regex.is_match(value.as_bytes()), expected, "{pattern:?} {value:?} by regex");
    };
    check("/status", "/status", true);
    check("/status", "/status/x", false);
    check("/status", "x/status", false);
    check("^/anchored$", "/anchored", true);
    check("^/anchored$", "/anchored\n", false);
    check("/public/.*", "/public/", true);
    check("/public/.*", "/public/a?b=c", true);
    check("/public/.*", "/public", false);
    check("/public/.*", "/public/a\nb", false);
    check("/public/.+", "/public/", false);
    check("/a|/b", "/a", true);
    check("/a|/b", "/ax", false);
    check("/a|/b", "x/b", false);
    check("P(OST|UT)", "PUT", true);
    check("P(OST|UT)", "PATCH", false);
    check("api[.]example[.]com", "api.example.com", true);
    check("api[.]example[.]com", "apiXexample.com", false);
    check("api.example.com", "apiXexample.com", true);
    check("/x?", "", false);
    check("/x?", "/", true);
    check("(?i)get", "GeT", true);
    check(".*", "anything", true);
    check(".*", "any\nthing", false);
    check("(/a/|/b/).*", "/b/x", true);
    check("/v[0-9]+/items", "/v12/items", true);
    check("/v[0-9]+/items", "/v/items", false);
}

#[test]
fn literals_and_prefixes_never_meet_the_regex_engine() {
    let kind = |pattern: &str| match Pattern::new(Some(pattern)).unwrap() {
        Pattern::Any => "any",
        Pattern::Literals(_) => "literals",
        Pattern::Prefix(_) => "prefix",
        Pattern::Regex(_) => "regex",
    };
    for (pattern, expected) in [
        ("", "any"),
        ("GET", "literals"),
        ("GET|HEAD", "literals"),
        ("P(OST|UT)", "literals"),
        ("api[.]example[.]com", "literals"),
        (r"a\.b", "literals"),
        ("/public/.*", "prefix"),
        (".*", "prefix"),
        ("/(a|b)/.*", "regex"),
        ("/v[0-9]+", "regex"),
        ("^/a$", "regex"),
        ("(?s)/a.*", "regex"),
    ] {
        assert_eq!(kind(pattern), expected, "{pattern:?}");
    }
}

#[test]
fn bad_expressions_are_refused() {
    let check = |pattern: &str, part: &str| {
        let error = check_pattern(pattern).unwrap_err();
        assert!(error.contains(part), "{pattern:?}: {error}");
    };
    check("/a(b", "unclosed group");
    check("GET[", "unclosed character class");
    check("/(?!a).*", "look-around");
    check("a)|(b", "unopened group");
    check("(a{1000}){1000}", "too large");
    check(&"a".repeat(5000), "the most is");
    assert_eq!(check_pattern(r"\pL+"), Ok(()));
}

#[test]
fn a_digit_is_an_ascii_digit() {
    let pattern = Pattern::new(Some(r"/\d+")).unwrap();
    assert!(pattern.matches("/12"));
    assert!(!pattern.matches("/\u{0661}"));
}

#[test]
fn rules_are_alternatives_and_their_fields_are_not() {
    let policy = policy(vec![rule("GET", "/public/.*"), rule("POST", "/submit")]);
    assert!(allowed(&ask(&policy, "GET", "/public/a", &[])));
    assert!(allowed(&ask(&policy, "POST", "/submit", &[])));
    assert!(!allowed(&ask(&policy, "POST", "/public/a", &[])));
    assert!(!allowed(&ask(&policy, "GET", "/submit", &[])));
    assert_eq!(ask(&policy, "GET", "/public/a", &[]), L7Verdict::Allow { rule: 7, actions: Vec::new() });
}

#[test]
fn sets_hold_for_their_peers_and_ports() {
    let sets = [
        set(Some(&[1, 2]), (80, 80), 10, vec![rule("", "/a")]),
        set(None, (80, 90), 11, vec![rule("", "/any")]),
        set(Some(&[2]), (0, 65535), 12, Vec::new()),
    ];
    let policy = L7Policy::new(&sets).unwrap();
    let check = |peer: u32, port: u16, path: &str, expected: bool| {
        let verdict = ask_peer(&policy, peer, port, "GET", path, &[]);
        assert_eq!(allowed(&verdict), expected, "{peer} {port} {path}: {verdict:?}");
    };
    check(1, 80, "/a", true);
    check(1, 80, "/any", true);
    check(1, 80, "/b", false);
    check(1, 81, "/a", false);
    check(1, 81, "/any", true);
    check(3, 80, "/a", false);
    check(3, 80, "/any", true);
    check(3, 91, "/any", false);
    check(2, 80, "/whatever", true);
    check(2, 9000, "/whatever", true);
    assert!(policy.allows_all(Direction::Ingress, 2, 80));
    assert!(!policy.allows_all(Direction::Ingress, 1, 80));
    assert!(!policy.allows_all(Direction::Egress, 2, 80));
}

#[test]
fn many_rules_find_theirs() {
    let mut rules = Vec::new();
    for i in 0..2000 {
        rules.push(rule("GET", &format!("/item/{i}")));
        rules.push(rule("GET", &format!("/tree/{i}/.*")));
    }
    for i in 0..50 {
        rules.push(rule("GET", &format!("/r{i}/[0-9]+")));
    }
    let policy = policy(rules);
    for path in ["/item/1999", "/tree/1/x", "/tree/1999/", "/r49/7"] {
        assert!(allowed(&ask(&policy, "GET", path, &[])), "{path}");
        assert!(!allowed(&ask(&policy, "PUT", path, &[])), "{path}");
    }
    for path in ["/item/2000", "/tree/1", "/r50/7", "/r49/x"] {
        assert!(!allowed(&ask(&policy, "GET", path, &[])), "{path}");
    }
}

#[test]
fn headers_must_be_there_and_be_right() {
    let present = policy(vec![with_header("x-trace", None, MismatchAction::Fail)]);
    assert!(allowed(&ask(&present, "GET", "/", &[("x-trace", "")])));
    assert!(!allowed(&ask(&present, "GET", "/", &[("x-trac", "1")])));
    let exact = policy(vec![with_header("x-token", Some("s3cret"), MismatchAction::Fail)]);
    assert!(allowed(&ask(&exact, "GET", "/", &[("x-token", "s3cret")])));
    assert!(!allowed(&ask(&exact, "GET", "/", &[("x-token", "s3cret ")])));
    assert!(!allowed(&ask(&exact, "GET", "/", &[])));
    let host = policy(vec![with_header("host", Some("shop.example:8080"), MismatchAction::Fail)]);
    assert!(allowed(&ask(&host, "GET", "/", &[("host", "forged")])), "the host is what is routed on");
}

#[test]
fn a_second_copy_of_a_header_never_helps() {
    let exact = policy(vec![with_header("x-role", Some("user"), MismatchAction::Fail)]);
    for headers in [
        &[("x-role", "user"), ("x-role", "admin")][..],
        &[("x-role", "admin"), ("x-role", "user")],
        &[("x-role", "user"), ("x-role", "user")],
        &[("x-role", "user"), ("x-role", "")],
        &[("x-role", ""), ("x-role", "user")],
    ] {
        assert!(!allowed(&ask(&exact, "GET", "/", headers)), "{headers:?}");
    }
    let list = policy(vec![with_header("x-role", Some("a,b"), MismatchAction::Fail)]);
    assert!(allowed(&ask(&list, "GET", "/", &[("x-role", "a,b")])));
    assert!(allowed(&ask(&list, "GET", "/", &[("x-role", "a"), ("x-role", "b")])));
    assert!(!allowed(&ask(&list, "GET", "/", &[("x-role", "b"), ("x-role", "a")])));
}

#[test]
fn mismatch_actions_let_pass_and_act() {
    let check = |mismatch, headers: &[(&str, &str)], expected: &[HeaderAction]| {
        let policy = policy(vec![with_header("x-env", Some("prod"), mismatch)]);
        match ask(&policy, "GET", "/", headers) {
            L7Verdict::Allow { actions, .. } => assert_eq!(actions, expected, "{mismatch:?} {headers:?}"),
            verdict => panic!("{mismatch:?} {headers:?}: {verdict:?}"),
        }
    };
    let (name, value) = ("x-env".to_owned(), "prod".to_owned());
    let wrong = &[("x-env", "dev")][..];
    check(MismatchAction::Log, wrong, &[HeaderAction::Log { name: name.clone() }]);
    check(MismatchAction::Log, &[("x-env", "prod")], &[]);
    check(MismatchAction::Add, &[], &[HeaderAction::Add { name: name.clone(), value: value.clone() }]);
    check(MismatchAction::Delete, wrong, &[HeaderAction::Delete { name: name.clone() }]);
    check(MismatchAction::Delete, &[], &[]);
    check(MismatchAction::Replace, wrong, &[HeaderAction::Replace { name, value }]);
}

#[test]
fn actions_are_not_lost_behind_another_rule() {
    let rules = vec![rule("", ""), with_header("x-env", Some("prod"), MismatchAction::Replace)];
    let policy = policy(rules);
    assert!(!policy.allows_all(Direction::Ingress, 1, 80));
    let L7Verdict::Allow { actions, .. } = ask(&policy, "GET", "/", &[("x-env", "dev")]) else {
        panic!("denied");
    };
    assert_eq!(actions.len(), 1);
}

#[test]
fn denials_name_what_came_nearest() {
    let policy =
        policy(vec![rule("GET", "/public/.*"), with_header("x-token", Some("s"), MismatchAction::Fail)]);
    let says = |verdict: L7Verdict, text: &str| {
        let why = why(verdict);
        assert!(why.contains(text), "{why:?} lacks {text:?}");
    };
    says(ask(&policy, "POST", "/public/a", &[("x-token", "t")]), "header \"x-token\" has another value");
    says(ask(&policy, "POST", "/x", &[]), "header \"x-token\" is missing");
    let policy = super::tests::policy(vec![rule("GET", "/public/.*")]);
    says(ask(&policy, "POST", "/public/a", &[]), "method \"POST\" does not match \"GET\"");
    says(ask(&policy, "GET", "/x", &[]), "path \"/x\" does not match \"/public/.*\"");
    says(ask(&policy, "GET", &"/x".repeat(500), &[]), "...\" does not match");
    says(ask_peer(&policy, 1, 81, "GET", "/", &[]), "port 81");
}

#[test]
fn no_rules_allow_nothing() {
    let policy = L7Policy::new(&[]).unwrap();
    assert!(!allowed(&ask(&policy, "GET", "/", &[])));
}

#[test]
fn an_expression_that_does_not_compile_is_an_error() {
    let error = L7Policy::new(&[set(None, (80, 80), 9, vec![rule("", "/a(b")])]).unwrap_err();
    assert_eq!((error.rule, error.field), (9, "path"));
}
