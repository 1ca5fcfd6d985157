//! The random corpus: 2,100 clusters and their queries, whose verdicts are those of Cilium's own code. Where
//! ours differ on purpose, `conformance/corpus/exclusions.json` names the queries with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use policy::cases::{self, QueryResult};
use serde::Deserialize;
use serde_json::Value;

#[path = "corpus/files.rs"]
mod files;

/// Differences to print; the rest is only counted.
const SHOWN: usize = 30;

/// A deliberate difference and where it shows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exclusion {
    reason: String,
    /// Numbers of the queries (the first is 0) by the name of their case.
    queries: BTreeMap<String, BTreeSet<usize>>,
}

/// The name of the difference by case and query.
type Exclusions = BTreeMap<(String, usize), String>;

#[test]
fn verdicts_are_those_of_cilium() {
    let exclusions = exclusions();
    let cases = files::cases("");
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut wrong: Vec<String> = thread::scope(|scope| {
        let parts = cases.chunks(cases.len().div_ceil(at_once));
        let parts: Vec<_> = parts.map(|part| scope.spawn(|| differences(part, &exclusions))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a part ran")).collect()
    });
    let queries: BTreeMap<&str, usize> = cases.iter().map(size).collect();
    for ((case, query), name) in &exclusions {
        if queries.get(case.as_str()).is_none_or(|count| query >= count) {
            wrong.push(format!("{case} query {query} does not exist but is excluded: {name}"));
        }
    }
    let shown = wrong.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} differences\n{shown}", wrong.len());
}

fn exclusions() -> Exclusions {
    let text = std::fs::read_to_string(files::folder().join("exclusions.json")).expect("the exclusions");
    let read: BTreeMap<String, Exclusion> = serde_json::from_str(&text).expect("exclusions by difference");
    let mut out = BTreeMap::new();
    for (name, exclusion) in read {
        assert!(!exclusion.reason.is_empty(), "{name} has no reason");
        for (case, queries) in exclusion.queries {
            for query in queries {
                let other = out.insert((case.clone(), query), name.clone());
                assert!(other.is_none(), "{case} query {query} is excluded twice");
            }
        }
    }
    out
}

/// Name of a case and how many queries it has.
fn size(case: &Value) -> (&str, usize) {
    (case["name"].as_str().expect("a name"), case["queries"].as_array().expect("queries").len())
}

/// What is not as it should be in some cases.
fn differences(cases: &[Value], exclusions: &Exclusions) -> Vec<String> {
    let mut wrong = Vec::new();
    for document in cases {
        let result = match cases::run(document) {
            Ok(result) => result,
            Err(error) => {
                wrong.push(format!("{}: {error}", document["name"]));
                continue;
            }
        };
        for policy in result.policies.iter().filter(|policy| policy.refused.is_some()) {
            wrong.push(format!("{}: refused: {policy:?}", result.name));
        }
        for (number, query) in result.queries.iter().enumerate() {
            match (query.passed(), exclusions.get(&(result.name.clone(), number))) {
                (false, None) => wrong.push(format!("{} query {number}: {}", result.name, say(query))),
                (true, Some(name)) => {
                    wrong.push(format!("{} query {number} agrees but is excluded: {name}", result.name));
                }
                _ => {}
            }
        }
    }
    wrong
}

fn say(query: &QueryResult) -> String {
    let QueryResult { name, verdict, l7_verdict, want, want_l7, error, .. } = query;
    format!("{name}: {verdict} {l7_verdict:?}, Cilium says {want:?} {want_l7:?} {error:?}")
}
