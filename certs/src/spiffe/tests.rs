use super::*;

fn parse(id: &str) -> Result<SpiffeId, SpiffeIdError> {
    id.parse()
}

#[test]
fn valid_ids_print_as_they_were_read() {
    for id in [
        "spiffe://cluster.local",
        "spiffe://cluster.local/ns/default/sa/web",
        "spiffe://a-b_c.0/x",
        "spiffe://td/Upper/Case_is.kept-here",
        "spiffe://td/.../.a/a.",
    ] {
        assert_eq!(parse(id).unwrap().to_string(), id);
    }
}

#[test]
fn everything_else_is_refused() {
    use SpiffeIdError::*;
    use TrustDomainError as Td;
    let check = |id: &str, want: SpiffeIdError| assert_eq!(parse(id), Err(want), "{id}");
    check("", Scheme);
    check("cluster.local/ns/a", Scheme);
    check("SPIFFE://cluster.local", Scheme);
    check("https://cluster.local", Scheme);
    check("spiffe:/cluster.local", Scheme);
    check(" spiffe://cluster.local", Scheme);
    check("spiffe://", TrustDomain(Td::Empty));
    check("spiffe:///ns/default/sa/web", TrustDomain(Td::Empty));
    check("spiffe://Cluster.local/a", TrustDomain(Td::Character('C')));
    check("spiffe://user@cluster.local/a", TrustDomain(Td::Character('@')));
    check("spiffe://cluster.local:443/a", TrustDomain(Td::Character(':')));
    check("spiffe://cluster%2elocal/a", TrustDomain(Td::Character('%')));
    check("spiffe://cluster.local?x", TrustDomain(Td::Character('?')));
    check("spiffe://clüster.local/a", TrustDomain(Td::Character('ü')));
    check("spiffe://td/", EmptySegment);
    check("spiffe://td/a/", EmptySegment);
    check("spiffe://td//a", EmptySegment);
    check("spiffe://td/a/./b", DotSegment);
    check("spiffe://td/ns/a/../sa/b", DotSegment);
    check("spiffe://td/a%2fb", PathCharacter('%'));
    check("spiffe://td/a?b", PathCharacter('?'));
    check("spiffe://td/a#b", PathCharacter('#'));
    check("spiffe://td/a b", PathCharacter(' '));
    check("spiffe://td/a\0", PathCharacter('\0'));
    check("spiffe://td/a\n", PathCharacter('\n'));
}

#[test]
fn lengths_are_limited() {
    let domain = |n: usize| format!("spiffe://{}", "a".repeat(n));
    assert!(parse(&domain(255)).is_ok());
    assert_eq!(parse(&domain(256)), Err(SpiffeIdError::TrustDomain(TrustDomainError::TooLong(256))));
    let id = |n: usize| format!("spiffe://td/{}", "a".repeat(n - "spiffe://td/".len()));
    assert!(parse(&id(2048)).is_ok());
    assert_eq!(parse(&id(2049)), Err(SpiffeIdError::TooLong(2049)));
}

#[test]
fn workloads_have_an_id_and_ids_a_workload() {
    let td: TrustDomain = "cluster.local".parse().unwrap();
    let id = SpiffeId::of_workload(&td, "shop", "cart.v2").unwrap();
    assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart.v2");
    assert_eq!(id.workload(), Some(Workload { namespace: "shop", service_account: "cart.v2" }));
    assert_eq!(parse(&id.to_string()).unwrap(), id);
    for path in [
        "",
        "/ns/shop",
        "/ns/shop/sa",
        "/ns/shop/sa/cart/x",
        "/sa/cart/ns/shop",
        "/x/ns/shop/sa/cart",
        "/ns/Shop/sa/cart",
        "/ns/a.b/sa/cart",
        "/ns/shop/sa/-cart",
    ] {
        let id = parse(&format!("spiffe://td{path}")).unwrap();
        assert_eq!(id.workload(), None, "{path}");
    }
}

#[test]
fn names_that_kubernetes_refuses_have_no_id() {
    let td: TrustDomain = "td".parse().unwrap();
    let long = "n".repeat(64);
    for namespace in ["", "a/b", "a.b", "Shop", "-a", "a-", "..", long.as_str()] {
        let error = SpiffeId::of_workload(&td, namespace, "web").unwrap_err();
        assert_eq!(error, SpiffeIdError::Namespace(namespace.to_owned()));
    }
    let long = "s".repeat(254);
    for account in ["", "a/b", "a..b", "Web", ".a", "a_b", "..", long.as_str()] {
        let error = SpiffeId::of_workload(&td, "shop", account).unwrap_err();
        assert_eq!(error, SpiffeIdError::ServiceAccount(account.to_owned()));
    }
}
