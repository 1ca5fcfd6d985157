//! The basic cases, whose wanted verdicts are those of Cilium's own code.

use policy::cases;
use serde_json::Value;

/// Cases that need what this version does not enforce, and the one deliberate difference. A case that
/// passes must leave the list.
const EXCLUDED: &[(&str, &str)] = &[
    ("09", "Cilium reads ICMP type 0 as any type; here it is the echo reply"),
    ("15", "toFQDNs and DNS rules are not enforced yet"),
    ("16", "host policies are not enforced yet"),
    ("18", "CIDR groups and authentication are not enforced yet"),
    ("19", "serverNames are not enforced yet"),
];

#[test]
fn verdicts_are_as_wanted() {
    let text = include_str!("cases/basic.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("the file is YAML");
    assert_eq!(documents.len(), 20);
    let mut wrong = Vec::new();
    for document in &documents {
        let name = document["name"].as_str().unwrap_or("");
        let excluded = EXCLUDED.iter().find(|(number, _)| name.starts_with(number));
        let (passed, what) = match cases::run(document) {
            Ok(result) => {
                let failed = result.queries.iter().filter(|q| !q.passed());
                let failed: Vec<String> = failed
                    .map(|q| format!("{}: {} {:?} {:?}", q.name, q.verdict, q.l7_verdict, q.explanation))
                    .collect();
                (result.passed(), failed.join("\n  "))
            }
            Err(error) => (false, error.to_string()),
        };
        match (passed, excluded) {
            (false, None) => wrong.push(format!("{name}\n  {what}")),
            (true, Some((_, reason))) => wrong.push(format!("{name} passes; excluded because: {reason}")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
