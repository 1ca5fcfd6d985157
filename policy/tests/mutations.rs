//! Manifests of the corpus, damaged at random: whatever was done to one, reading, refusing and compiling it
//! must not panic, and a misspelt field must never be accepted.

use std::sync::Arc;

use policy::model;
use policy::{Snapshot, compile};
use serde_json::{Value, json};

#[path = "corpus/files.rs"]
mod files;
#[path = "corpus/random.rs"]
mod random;

use random::Random;

/// Damaged versions of each manifest.
const PER_MANIFEST: usize = 12;

#[test]
fn damaged_manifests_are_read_or_refused() {
    let mut random = Random::new(11);
    let (mut refused, mut accepted) = (0, 0);
    for manifest in manifests() {
        let kind = manifest["kind"].as_str().expect("a kind").to_owned();
        for _ in 0..PER_MANIFEST {
            let mut damaged = manifest.clone();
            damage(&mut random, &mut damaged);
            let object = match model::parse(&kind, &damaged) {
                Ok(object) => {
                    accepted += 1;
                    object
                }
                Err(refusal) => {
                    refused += 1;
                    assert!(!refusal.reason.is_empty(), "{damaged}");
                    model::refused_object(&kind, &damaged, &refusal)
                }
            };
            let mut snapshot = Snapshot { revision: 1, ..Snapshot::default() };
            snapshot.policies.insert(object.key(), Arc::new(object));
            compile(&snapshot);
        }
    }
    assert!(refused > 1000 && accepted > 200, "{refused} refused, {accepted} accepted");
}

#[test]
fn a_misspelt_field_is_always_refused() {
    let mut random = Random::new(12);
    for manifest in manifests() {
        let kind = manifest["kind"].as_str().expect("a kind").to_owned();
        let mut damaged = manifest.clone();
        let spec = damaged.get_mut("spec");
        let Some(name) = spec.and_then(|spec| misspell(&mut random, spec)) else { continue };
        let refusal = match model::parse(&kind, &damaged) {
            Ok(_) => panic!("accepted with {name:?}: {damaged}"),
            Err(refusal) => refusal,
        };
        let object = model::refused_object(&kind, &damaged, &refusal);
        // A clusterwide policy without a readable subject is the one that denies nobody.
        let nobody = object.rules.is_empty();
        assert!(!nobody || kind == model::CCNP, "denies nobody: {damaged}");
    }
}

/// The manifests of the corpus' first file.
fn manifests() -> Vec<Value> {
    let cases = files::cases("random-1");
    cases.iter().flat_map(|case| case["policies"].as_array().cloned().unwrap_or_default()).collect()
}

/// Replaces, removes or doubles something somewhere.
fn damage(random: &mut Random, manifest: &mut Value) {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(65536),
        json!(1e300),
        json!(""),
        json!("*"),
        json!("\u{0}"),
        json!("x".repeat(300)),
        json!("((((((((a*)*)*)*)*)*)*)*"),
        json!("[[:alpha:]]{1000}{1000}"),
        json!("0.0.0.0/0"),
        json!("::/0"),
        json!([]),
        json!([[]]),
        json!({}),
        json!([{}]),
        json!({"a": "b"}),
    ];
    let target = descend(random, manifest);
    match (random.below(4), target) {
        (0, Value::Array(list)) if !list.is_empty() => {
            let copy = list[random.below(list.len())].clone();
            list.push(copy);
        }
        (1, Value::Object(fields)) if !fields.is_empty() => {
            let name = fields.keys().nth(random.below(fields.len())).expect("a field").clone();
            fields.remove(&name);
        }
        (_, target) => *target = values[random.below(values.len())].clone(),
    }
}

/// Some value within `value`, deep ones as likely as shallow ones.
fn descend<'a>(random: &mut Random, value: &'a mut Value) -> &'a mut Value {
    let children = match value {
        Value::Object(fields) => fields.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    if children == 0 || random.below(5) == 0 {
        return value;
    }
    let at = random.below(children);
    let child = match value {
        Value::Object(fields) => fields.values_mut().nth(at),
        Value::Array(list) => list.get_mut(at),
        _ => None,
    };
    descend(random, child.expect("a child"))
}

/// Doubles the last letter of a field's name, somewhere below `spec`; returns the new name.
fn misspell(random: &mut Random, value: &mut Value) -> Option<String> {
    let fields = match value {
        Value::Array(list) if !list.is_empty() => {
            let at = random.below(list.len());
            return misspell(random, &mut list[at]);
        }
        Value::Object(fields) if !fields.is_empty() => fields,
        _ => return None,
    };
    let name = fields.keys().nth(random.below(fields.len()))?.clone();
    // The keys of labels are names that people choose.
    if name != "matchLabels" && random.below(3) > 0 {
        let inner = fields.get_mut(&name).and_then(|inner| misspell(random, inner));
        if inner.is_some() {
            return inner;
        }
    }
    let wrong = format!("{name}{}", name.chars().last()?);
    let moved = fields.remove(&name)?;
    fields.insert(wrong.clone(), moved);
    Some(wrong)
}
