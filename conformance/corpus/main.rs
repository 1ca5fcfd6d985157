//! Remakes the random policy corpus: cases from the committed seeds, verdicts from the oracle.
//!
//! `cargo run -p conformance --example corpus -- ORACLE` runs the oracle (Cilium's own policy code, see
//! README.md beside this file) on every case and writes `cases/*.jsonl`, one case per line with the
//! verdicts as `want` and `wantL7`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

mod generate;

use generate::Theme;

/// A committed file of cases.
struct Shard {
    file: &'static str,
    seed: u64,
    theme: Theme,
    count: usize,
}

/// The seeds. A changed generator remakes all files.
const SHARDS: [Shard; 9] = [
    Shard { file: "random-1", seed: 1, theme: Theme::Common, count: 300 },
    Shard { file: "random-2", seed: 2, theme: Theme::Common, count: 300 },
    Shard { file: "random-3", seed: 3, theme: Theme::Common, count: 300 },
    Shard { file: "random-4", seed: 4, theme: Theme::Common, count: 300 },
    Shard { file: "random-5", seed: 5, theme: Theme::Common, count: 300 },
    Shard { file: "random-6", seed: 6, theme: Theme::Common, count: 300 },
    Shard { file: "random-7", seed: 7, theme: Theme::Common, count: 300 },
    Shard { file: "differs-ip-block", seed: 101, theme: Theme::IpBlockOverPods, count: 20 },
    Shard { file: "differs-icmp-zero", seed: 102, theme: Theme::IcmpTypeZero, count: 20 },
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/cases")
}

fn main() -> Result<()> {
    let oracle = std::env::args_os().nth(1).context("usage: corpus ORACLE")?;
    std::fs::create_dir_all(folder())?;
    let mut totals = BTreeMap::new();
    for shard in SHARDS {
        let mut cases = generate::cases(shard.seed, shard.theme, shard.count);
        ask(Path::new(&oracle), &mut cases).with_context(|| format!("shard {}", shard.file))?;
        let mut text = String::new();
        for case in &cases {
            for query in case["queries"].as_array().into_iter().flatten() {
                *totals.entry(query["want"].to_string()).or_insert(0) += 1;
            }
            writeln!(text, "{case}")?;
        }
        std::fs::write(folder().join(shard.file).with_extension("jsonl"), text)?;
    }
    println!("queries by verdict: {totals:?}");
    Ok(())
}

/// Adds the oracle's verdicts to the queries of `cases`.
fn ask(oracle: &Path, cases: &mut [Value]) -> Result<()> {
    let input = tempfile::NamedTempFile::with_suffix(".yaml")?;
    let documents: Vec<String> = cases.iter().map(Value::to_string).collect();
    std::fs::write(input.path(), documents.join("\n---\n"))?;
    let output = Command::new(oracle).arg("run").arg(input.path()).output().context("run the oracle")?;
    ensure!(output.status.success(), "oracle: {}", String::from_utf8_lossy(&output.stderr));
    let results: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .context("read the oracle's answers")?;
    ensure!(results.len() == cases.len(), "{} answers for {} cases", results.len(), cases.len());
    for (case, result) in cases.iter_mut().zip(&results) {
        let name = case["name"].clone();
        ensure!(result["name"] == name, "answers out of order at case {name}");
        for policy in result["policies"].as_array().into_iter().flatten() {
            ensure!(policy["ok"] == true && policy["unknown"].is_null(), "case {name}: {policy}");
        }
        let answers = result["queries"].as_array().context("no queries in an answer")?;
        let queries = case["queries"].as_array_mut().context("no queries in a case")?;
        for (query, answer) in queries.iter_mut().zip(answers) {
            match answer["verdict"].as_str() {
                Some(verdict @ ("allow" | "deny" | "redirect")) => query["want"] = json!(verdict),
                _ => bail!("case {name}: {answer}"),
            }
            if !query["http"].is_null() {
                query["wantL7"] = answer["l7_verdict"].clone();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed inputs are what the committed seeds give: nothing was picked or mended by hand.
    #[test]
    fn committed_cases_come_from_their_seeds() {
        for shard in SHARDS {
            let path = folder().join(shard.file).with_extension("jsonl");
            let text = std::fs::read_to_string(&path).expect("a committed file of cases");
            let committed = text.lines().map(|line| {
                let mut case: Value = serde_json::from_str(line).expect("a case per line");
                for query in case["queries"].as_array_mut().expect("queries") {
                    let query = query.as_object_mut().expect("an object");
                    assert!(query.remove("want").is_some(), "{}: no verdict", shard.file);
                    query.remove("wantL7");
                }
                case
            });
            let made = generate::cases(shard.seed, shard.theme, shard.count);
            assert!(committed.eq(made), "{}: other cases than the generator makes", shard.file);
        }
    }
}
