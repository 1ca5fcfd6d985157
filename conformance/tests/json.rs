//! `docs/json.md` against the real output: no field that it does not name, none missing that it promises.

use std::collections::{BTreeMap, BTreeSet};

use conformance::host::{program, run};
use conformance::http::record;
use conformance::{Node, host, manifests};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/json.md");

/// Optional fields that this test cannot bring about, and why. One that shows up must leave the list.
const UNSEEN: &[(&str, &str)] = &[
    ("proxy.refused", "a proxy refuses only what a broken agent sends"),
    ("proxies[].refused", "the same"),
    ("flows[].source.service", "nobody opens from a virtual address; both ends have one shape"),
    ("flows[].defaultDenyMore", "more than 16 policies; mesh-agent/src/flows/view/tests.rs has it"),
    ("flows[].icmp", "ping is not on every machine; mesh-agent/src/flows/view/tests.rs has it"),
];

/// Fields by path, and whether they are always there.
type Fields = BTreeMap<String, bool>;

/// The fields of one section's table.
fn documented(command: &str) -> Fields {
    let (_, section) = DOCUMENT.split_once(&format!("## heddle {command}\n")).expect(command);
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut fields = Fields::new();
    for row in rows {
        let mut cells = row.split('|');
        let path = cells.next().unwrap_or_default().trim().trim_end_matches('`').to_owned();
        let always = !cells.next().unwrap_or_default().trim().starts_with("optional");
        fields.extend(expand(&path).into_iter().map(|path| (path, always)));
    }
    assert!(!fields.is_empty(), "{command} has a table");
    fields
}

/// `{a,b}.c` as `a.c` and `b.c`.
fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (choices, after) = rest.split_once('}').expect("a closing brace");
    choices.split(',').flat_map(|choice| expand(&format!("{before}{choice}{after}"))).collect()
}

/// Every object of the output by path, with its fields.
fn walk(path: &str, value: &Value, into: &mut Vec<(String, BTreeSet<String>)>) {
    match value {
        Value::Object(fields) => {
            let own = |name: &String, value: &Value| {
                let list = if value.is_array() { "[]" } else { "" };
                let dot = if path.is_empty() { "" } else { "." };
                format!("{path}{dot}{name}{list}")
            };
            into.push((path.to_owned(), fields.iter().map(|(name, value)| own(name, value)).collect()));
            fields.iter().for_each(|(name, value)| walk(&own(name, value), value, into));
        }
        Value::Array(all) => all.iter().for_each(|value| walk(path, value, into)),
        _ => {}
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Holds a section against outputs of its command.
fn check(command: &str, outputs: &[Value]) {
    let fields = documented(command);
    let mut objects = Vec::new();
    outputs.iter().for_each(|output| walk("", output, &mut objects));
    let mut seen = BTreeSet::new();
    for (path, names) in &objects {
        for name in names {
            // An object within another may be named by its fields alone.
            let within = fields.keys().any(|field| field.starts_with(&format!("{name}.")));
            assert!(fields.contains_key(name) || within, "{command}: {name} is not documented");
        }
        let promised = fields.iter().filter(|(field, always)| **always && parent(field) == path);
        for (field, _) in promised {
            assert!(names.contains(field), "{command}: {field} is missing in an output: {names:?}");
        }
        seen.extend(names.iter().cloned());
    }
    for field in fields.keys() {
        let unseen = UNSEEN.iter().any(|(name, _)| field == name || field.starts_with(&format!("{name}.")));
        assert!(seen.contains(field) != unseen, "{command}: {field}: seen {}", seen.contains(field));
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: test}}\n\
         spec:\n  endpointSelector: {{matchLabels: {{app: server}}}}\n  {spec}\n"
    )
}

/// Output of a command whose exit code is a verdict.
fn json(node: &Node, words: &[&str]) -> Value {
    let output = node.heddle(words).args(["-o", "json"]).output().expect("heddle runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {error}"))
}

#[test]
fn the_document_names_every_field() {
    if !host::privileged("the_document_names_every_field") {
        return;
    }
    let node = Node::builder("json").file("http.yaml", manifests::HTTP).start();
    run(&mut node.heddle(&["status", "--wait"]));
    let (client, stranger) = (node.pod("test/client"), node.pod("test/stranger"));
    let server = node.pod("test/server");
    drop(record(server.listen((server.ipv4(), 8080))));
    let vip = "http://10.96.1.1/public/a";
    assert_eq!(client.curl(&[vip]).0, 200, "{}", node.log());
    assert_eq!(client.curl(&["-XDELETE", vip]).0, 403);
    let service = ["--from", "test/client", "--to", "10.96.1.1", "--port", "80", "--path"];
    let direct = ["--to", "test/server", "--port", "8080"];
    let ask = |words: &[&[&str]]| json(&node, &[&["policy", "explain"], words.concat().as_slice()].concat());
    let mut answers = vec![
        ask(&[&service, &["/private"]]),
        ask(&[&service, &["/public/a"]]),
        ask(&[&service, &["/a%2fb"]]),
        ask(&[&["--from", "test/stranger"], &direct]),
    ];
    stranger.becomes(&node, &format!("http://{}:8080/", server.ipv4()), 0);
    // A policy that was never valid, for the server's own connections too; one that was.
    node.apply("was.yaml", &policy("was", "ingress: [{toPorts: [{ports: [{port: \"1\"}]}]}]"));
    node.apply("never.yaml", &policy("never", "ingres: [{}]"));
    client.becomes(&node, &format!("http://{}:8080/public/a", server.ipv4()), 0);
    node.apply("was.yaml", &policy("was", "ingress: [{toPorts: [{ports: [{port: \"x y\"}]}]}]"));
    let lists = conformance::eventually("both are refused", std::time::Duration::from_secs(15), || {
        let list = node.json(&["policy", "list"]);
        let text = list.to_string();
        if text.contains("lastValid") && text.contains("denial") { Ok(list) } else { Err(text) }
    });
    answers.push(ask(&[&["--from", "test/client"], &direct]));

    check("policy list", &[lists]);
    check("status", &[node.json(&["status"])]);
    check("endpoint list", &[node.json(&["endpoint", "list"])]);
    check("service list", &[node.json(&["service", "list"])]);
    check("identity list", &[node.json(&["identity", "list"])]);
    check("flows", &[node.json(&["flows", "--last", "8192"])]);
    check("version", &[node.json(&["version"])]);
    explained(&answers);
}

/// Both directions have one shape: what one of them shows counts for both.
fn explained(answers: &[Value]) {
    let turned = answers.iter().map(|answer| {
        let mut turned = answer.clone();
        if let Some(fields) = turned.as_object_mut() {
            let (egress, ingress) = (fields.remove("egress"), fields.remove("ingress"));
            fields.extend(egress.map(|side| ("ingress".to_owned(), side)));
            fields.extend(ingress.map(|side| ("egress".to_owned(), side)));
        }
        turned
    });
    check("policy explain", &answers.iter().cloned().chain(turned).collect::<Vec<_>>());
}

#[test]
fn the_document_names_every_field_of_the_commands_without_an_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let good = file("good.yaml", manifests::HTTP);
    let bad = file("bad.yaml", &policy("bad", "ingres: [{}]"));
    let case = file(
        "case.yaml",
        "name: x\nendpoints:\n  - {name: a, labels: {app: a}}\n  - {name: b, labels: {app: b}}\n\
         queries:\n  - {from: a, to: b, port: 80, want: deny}\n",
    );
    let ask = |words: &[&str], files: &[&std::path::PathBuf]| -> Value {
        let mut command = std::process::Command::new(program("heddle"));
        let output = command.args(words).args(files).args(["-o", "json"]).output().expect("heddle runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    check("policy check", &[ask(&["policy", "check"], &[&good, &bad])]);
    check("policy test", &[ask(&["policy", "test"], &[&case])]);
}
