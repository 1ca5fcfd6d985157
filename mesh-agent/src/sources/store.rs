//! Which version of each object is in force: of several claims to one name the first by path, of a refused
//! one its last valid version, of a policy that was never valid its denials.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::decode::{self, Decoded};
use super::file::{Contents, Verdict};
use super::object::{Object, ObjectKey};
use super::problem::{Fault, Origin, PlacedFault, Problem, Severity};
use crate::yaml::Position;

/// All claims, and the outcome.
#[derive(Debug, Default)]
pub struct Store {
    files: BTreeMap<Arc<PathBuf>, FileClaims>,
    claims: BTreeMap<ObjectKey, BTreeMap<Origin, Claim>>,
    in_force: BTreeMap<ObjectKey, InForce>,
    touched: BTreeSet<ObjectKey>,
    recalled: BTreeMap<ObjectKey, LastValid>,
}

/// A change of what is in force; `None`: gone.
pub type Change = (ObjectKey, Option<Object>);

/// A valid version that is in force in place of a refused one. Survives a restart.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LastValid {
    pub file: PathBuf,
    pub manifest: Value,
    /// RFC 3339: since when it has been in force, as far as is known. Empty in files of version 0.1.
    #[serde(default)]
    pub since: String,
}

/// A valid version of an object.
#[derive(Clone, Debug)]
struct Valid {
    manifest: Arc<Value>,
    object: Object,
    /// RFC 3339, to the second: when this or an earlier process took it.
    since: String,
}

#[derive(Debug, Default)]
struct FileClaims {
    keys: BTreeSet<ObjectKey>,
    faults: Vec<PlacedFault>,
    ignored: Vec<(String, PlacedFault)>,
}

#[derive(Debug)]
struct Claim {
    at: Position,
    manifest: Arc<Value>,
    verdict: Verdict,
}

#[derive(Debug)]
struct InForce {
    /// The newest valid version, if there ever was one.
    valid: Option<Valid>,
    /// Why the newest version is not it.
    refused: Option<Fault>,
    /// Whether something of it is in the snapshot.
    effective: bool,
}

impl Store {
    /// A store that knows what was in force in place of refused objects before a restart.
    pub fn recalling(last_valid: Vec<LastValid>) -> Self {
        let recalled = last_valid.into_iter().filter_map(|last| match decode::decode(&last.manifest, "") {
            Decoded::Valid { key, .. } => Some((key, last)),
            _ => None,
        });
        Self { recalled: recalled.collect(), ..Self::default() }
    }

    /// Replaces what a file holds.
    pub fn set_file(&mut self, file: &Arc<PathBuf>, contents: Contents) {
        let before = self.forget(file);
        let mut claims = FileClaims { faults: contents.faults, ..FileClaims::default() };
        for (index, entry) in contents.entries.into_iter().enumerate() {
            let claim = Claim { at: entry.at, manifest: entry.manifest, verdict: entry.verdict };
            claims.keys.insert(entry.key.clone());
            self.claim(entry.key, Origin { held: false, file: file.clone(), index }, claim);
        }
        let recalled =
            self.recalled.iter().filter(|(_, last)| last.file == **file).map(|(key, _)| key.clone());
        let before: BTreeSet<_> = before.into_iter().chain(recalled).collect();
        for key in before.into_iter().filter(|key| !claims.keys.contains(key)).collect::<Vec<_>>() {
            // An object that turned into something we do not read under the same name: a typing error.
            let renamed =
                contents.ignored.iter().find(|i| i.name == key.name && i.takes_over(&key.namespace));
            let fault = match renamed {
                Some(ignored) => ignored.fault.clone(),
                None if contents.incomplete => PlacedFault {
                    at: Position::default(),
                    fault: Fault::new("", "part of its file cannot be read"),
                },
                None => continue,
            };
            let verdict = Verdict::Refused { fault, fallback: None };
            let claim = Claim { at: Position::default(), manifest: Arc::new(Value::Null), verdict };
            claims.keys.insert(key.clone());
            self.claim(key, Origin { held: true, file: file.clone(), index: 0 }, claim);
        }
        claims.ignored =
            contents.ignored.into_iter().map(|i| (format!("{} {}", i.kind, i.path()), i.fault)).collect();
        self.files.insert(file.clone(), claims);
    }

    /// A file that is gone.
    pub fn remove_file(&mut self, file: &Arc<PathBuf>) {
        self.forget(file);
    }

    /// Whether a file other than `file` claims the object.
    pub fn is_claimed_beside(&self, key: &ObjectKey, file: &Path) -> bool {
        self.claims.get(key).is_some_and(|claims| claims.keys().any(|origin| origin.file.as_path() != file))
    }

    /// The files that are known.
    pub fn files(&self) -> impl Iterator<Item = &Arc<PathBuf>> {
        self.files.keys()
    }

    /// Takes the claims of a file away and returns their keys.
    fn forget(&mut self, file: &Arc<PathBuf>) -> BTreeSet<ObjectKey> {
        let Some(claims) = self.files.remove(file) else { return BTreeSet::new() };
        for key in &claims.keys {
            if let Some(of_key) = self.claims.get_mut(key) {
                of_key.retain(|origin, _| origin.file != *file);
                if of_key.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        self.touched.extend(claims.keys.iter().cloned());
        claims.keys
    }

    fn claim(&mut self, key: ObjectKey, origin: Origin, claim: Claim) {
        self.touched.insert(key.clone());
        self.claims.entry(key).or_default().insert(origin, claim);
    }

    /// Decides anew about every object whose claims changed since the last call.
    pub fn settle(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .into_iter()
            .filter_map(|key| {
                let change = self.elect(&key);
                // What is in force, or nothing, is the last version from now on.
                self.recalled.remove(&key);
                change.map(|object| (key, object))
            })
            .collect()
    }

    /// `None`: nothing changes.
    fn elect(&mut self, key: &ObjectKey) -> Option<Option<Object>> {
        let Some(claim) = self.claims.get(key).and_then(|claims| claims.values().next()) else {
            let before = self.in_force.remove(key)?;
            return before.effective.then_some(None);
        };
        let before = self.in_force.get(key);
        match &claim.verdict {
            Verdict::Valid { object, .. } => {
                let same = before.is_some_and(|b| {
                    b.refused.is_none() && b.valid.as_ref().is_some_and(|v| v.manifest == claim.manifest)
                });
                if same {
                    return None;
                }
                let (manifest, object) = (claim.manifest.clone(), object.clone());
                let since = before.and_then(|b| b.valid.as_ref()).filter(|v| v.manifest == manifest);
                let since = since.map_or_else(now, |v| v.since.clone());
                let valid = Some(Valid { manifest, object: object.clone(), since });
                self.in_force.insert(key.clone(), InForce { valid, refused: None, effective: true });
                Some(Some(object))
            }
            Verdict::Refused { fault, fallback } => {
                let fault = fault.fault.clone();
                let known = before.and_then(|b| b.valid.clone()).or_else(|| {
                    let last = self.recalled.get(key)?;
                    match decode::decode(&last.manifest, "") {
                        Decoded::Valid { object, .. } => {
                            let (manifest, since) = (Arc::new(last.manifest.clone()), last.since.clone());
                            Some(Valid { manifest, object, since })
                        }
                        _ => None,
                    }
                });
                let was_effective = before.is_some_and(|b| b.effective);
                let object = match (known.as_ref().map(|v| &v.object), fallback) {
                    (Some(Object::Policy(policy)), _) => {
                        Some(Object::Policy(Arc::new(decode::superseded(policy, &fault))))
                    }
                    (Some(object), _) => Some(object.clone()),
                    (None, fallback) => fallback.clone(),
                };
                let effective = object.is_some();
                let state = InForce { valid: known, refused: Some(fault), effective };
                self.in_force.insert(key.clone(), state);
                (effective || was_effective).then_some(object)
            }
        }
    }

    /// Why the newest version of an object is not in force, and what is instead; `None`: it is.
    pub fn refusal(&self, key: &ObjectKey) -> Option<String> {
        let fault = self.in_force.get(key)?.refused.as_ref()?;
        let claim = self.claims.get(key)?.values().next()?;
        let fallback = match &claim.verdict {
            Verdict::Refused { fallback, .. } => fallback.as_ref(),
            Verdict::Valid { .. } => None,
        };
        Some(format!("{fault} ({})", self.effect(key, fallback)))
    }

    /// What must be remembered over a restart: valid versions in place of refused ones.
    pub fn last_valid(&self) -> Vec<LastValid> {
        let kept = self.in_force.iter().filter(|(_, state)| state.refused.is_some());
        kept.filter_map(|(key, state)| {
            let valid = state.valid.as_ref()?;
            let file = self.place(key)?.0.to_owned();
            Some(LastValid { file, manifest: (*valid.manifest).clone(), since: valid.since.clone() })
        })
        .collect()
    }

    /// Since when the last valid version of each refused object has been in force (RFC 3339), by
    /// `kind/namespace/name`.
    pub fn last_valid_since(&self) -> BTreeMap<String, String> {
        let kept = self.in_force.iter().filter(|(_, state)| state.refused.is_some());
        kept.filter_map(|(key, state)| {
            let since = state.valid.as_ref()?.since.clone();
            Some((format!("{}/{}/{}", key.kind.name(), key.namespace, key.name), since))
        })
        .collect()
    }

    /// The file and the place in it of the claim that counts for `key`.
    pub fn place(&self, key: &ObjectKey) -> Option<(&Path, Position)> {
        let (origin, claim) = self.claims.get(key)?.first_key_value()?;
        Some((origin.file.as_path(), claim.at))
    }

    /// Every object with its place and whether its newest version is in force, in order of place.
    pub fn claims(&self) -> Vec<(&Path, Position, &ObjectKey, bool)> {
        let mut all = Vec::new();
        for (key, claims) in &self.claims {
            for (i, (origin, claim)) in claims.iter().enumerate().filter(|(_, (o, _))| !o.held) {
                let valid = i == 0 && matches!(claim.verdict, Verdict::Valid { .. });
                all.push((origin.file.as_path(), claim.at, key, valid));
            }
        }
        all.sort_by_key(|(file, at, ..)| (*file, *at));
        all
    }

    /// Everything that users should mend, in order of place.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all = Vec::new();
        for (file, claims) in &self.files {
            for fault in &claims.faults {
                all.push(Problem::new(Severity::Error, file, "", fault, &self.held(file, claims)));
            }
            for (object, fault) in &claims.ignored {
                all.push(Problem::new(Severity::Warning, file, object, fault, ""));
            }
        }
        for (key, claims) in &self.claims {
            self.problems_of(key, claims, &mut all);
        }
        all.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        all
    }

    fn problems_of(&self, key: &ObjectKey, claims: &BTreeMap<Origin, Claim>, all: &mut Vec<Problem>) {
        let name = key.to_string();
        let mut first: Option<(&Origin, Position)> = None;
        for (origin, claim) in claims {
            if origin.held && first.is_some() {
                continue;
            }
            if let Some((winner, at)) = first {
                let place = format!("{}:{}", winner.file.display(), at.line);
                let fault = Fault::new("metadata.name", format!("the same object stands in {place} already"));
                let fault = PlacedFault { at: claim.at, fault };
                all.push(Problem::new(Severity::Error, &origin.file, &name, &fault, "the other one counts"));
                continue;
            }
            first = Some((origin, claim.at));
            match &claim.verdict {
                Verdict::Valid { warnings, .. } => {
                    for fault in warnings {
                        all.push(Problem::new(Severity::Warning, &origin.file, &name, fault, ""));
                    }
                }
                // Told once, with the fault of the file.
                Verdict::Refused { .. } if origin.held => {}
                Verdict::Refused { fault, fallback } => {
                    let effect = self.effect(key, fallback.as_ref());
                    all.push(Problem::new(Severity::Error, &origin.file, &name, fault, effect));
                }
            }
        }
    }

    fn effect(&self, key: &ObjectKey, fallback: Option<&Object>) -> &'static str {
        let known = self.in_force.get(key).is_some_and(|state| state.valid.is_some());
        match fallback {
            _ if known => "its last valid version stays in force",
            Some(Object::Policy(policy)) if policy.rules.is_empty() => {
                "nothing is enforced by it, since it cannot be told whom it is meant for"
            }
            Some(_) => "what it selects is denied in the directions it speaks of",
            None => "it is not used",
        }
    }

    /// What stays in force in spite of a fault of the whole file.
    fn held(&self, file: &Arc<PathBuf>, claims: &FileClaims) -> String {
        let origin = Origin { held: true, file: file.clone(), index: 0 };
        let is_held =
            |key: &&ObjectKey| self.claims.get(*key).is_some_and(|claims| claims.contains_key(&origin));
        let held = claims.keys.iter().filter(is_held);
        let names: Vec<_> = held.map(ToString::to_string).collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => format!("the last valid version of {one} stays in force"),
            many => format!("the last valid versions of its {} objects stay in force", many.len()),
        }
    }
}

/// RFC 3339, to the second.
fn now() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}
