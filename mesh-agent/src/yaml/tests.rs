use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<(u32, Value)> {
    documents(text).into_iter().map(|d| (d.line, d.content.expect("valid"))).collect()
}

#[test]
fn documents_know_their_lines() {
    assert_eq!(values(""), []);
    assert_eq!(values("# nothing\n---\n---\n# here\n"), []);
    assert_eq!(values("a: 1\n---\n# c\n\nb: 2\n"), [(1, json!({"a": 1})), (5, json!({"b": 2}))]);
    assert_eq!(values("--- {a: 1}\n...\n%YAML 1.2\n---\nb: 2"), [(1, json!({"a": 1})), (5, json!({"b": 2}))]);
    assert_eq!(values("\u{feff}a: 1\r\n---\r\nb: 2\r\n"), [(1, json!({"a": 1})), (3, json!({"b": 2}))]);
    assert_eq!(values("a: |\n  --- x\n  ---\nb: '---x'\n"), [(1, json!({"a": "--- x\n---\n", "b": "---x"}))]);
    assert_eq!(values("{\n\t\"a\": [1,\n\t\t\"\\ud83d\\ude00\"]\n}"), [(1, json!({"a": [1, "😀"]}))]);
}

#[test]
fn scalars_mean_what_they_mean_to_kubectl() {
    let text = "a: yes\nb: off\nc: 0644\nd: '010'\ne: 1.10\nf: 2026-01-01\n1: x\n";
    let want = json!({"a": true, "b": false, "c": 420, "d": "010", "e": 1.1, "f": "2026-01-01", "1": "x"});
    assert_eq!(values(text), [(1, want)]);
}

#[test]
fn errors_name_line_and_column_of_the_whole_text() {
    let check = |text: &str, index: usize, line: u32, reason: &str| {
        let error = documents(text)[index].content.clone().expect_err("broken");
        assert_eq!((error.at.line, error.reason.contains(reason)), (line, true), "{text:?}: {error}");
    };
    check("a: [1, 2\nb: 3\n", 0, 2, "':'");
    check("a: 1\n---\nb: 1\nb: 2\n", 1, 4, "duplicate mapping key: b");
    check("a: 1\n---\nb: *nope\n---\nc: 1", 1, 3, "unknown anchor");
    check("a: .inf", 0, 1, "non-finite");
    check(&"[".repeat(100_000), 0, 1, "recursion limit");
    check(&(0..100).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>(), 0, 65, "Depth");
}

#[test]
fn a_broken_document_leaves_its_neighbours_alone() {
    let all = documents("a: 1\n---\nb: [\n---\nc: 3\n");
    assert_eq!(all.iter().map(|d| d.content.is_ok()).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..9 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(",");
        bomb += &format!("a{n}: &a{n} [{aliases}]\n");
    }
    assert!(documents(&bomb)[0].content.is_err());
}

#[test]
fn positions_of_fields() {
    let text = "# c\nspec:\n  ingress:\n    - toPorts:\n        - ports:\n            - {port: \"80\", protocl: TCP}\n  labels:\n    a.b/c: 1\n    a: 2\n";
    let doc = &documents(text)[0];
    let check =
        |path: &str, line, column| assert_eq!(doc.position(path), Position { line, column }, "{path}");
    check("spec", 2, 1);
    check("spec.ingress[0].toPorts[0].ports[0].protocl", 6, 28);
    check("spec.ingress[0].toPorts[0].ports[0].missing", 6, 15);
    check("spec.ingress[7]", 3, 3);
    check("spec.labels.a.b/c", 8, 5);
    check("spec.labels[\"a.b/c\"]", 8, 5);
    check("spec.labels.a", 9, 5);
    check("status", 2, 1);
    check("", 2, 1);
    let second = &documents(&format!("x: 1\n---\n{text}"))[1];
    assert_eq!(second.position("spec.labels.a").line, 11);
}

#[test]
fn positions_within_aliases_and_merges() {
    let doc = &documents("base: &b {x: 1}\nuse: *b\nmerged:\n  <<: *b\n  y: 2\n")[0];
    assert_eq!(doc.position("use.x").line, 2);
    assert_eq!(doc.position("merged.y").line, 5);
}

#[test]
fn headers_of_broken_documents() {
    let text =
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: b}\nspec: [\n";
    let header = documents(text)[0].content.clone().expect_err("broken").header;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        header,
        Header {
            api_version: some("cilium.io/v2"),
            kind: some("CiliumNetworkPolicy"),
            namespace: some("b"),
            name: some("a"),
        }
    );
    assert_eq!(documents("[")[0].content.clone().expect_err("broken").header, Header::default());
}
