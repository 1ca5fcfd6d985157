//! What became of a policy, told to whoever wrote it: the condition `Valid` of its status, and an Event on one
//! that is refused.
//!
//! Every node has the same opinion and may be the one to write it; the others see it written while they still
//! wait, and stay silent. Of two versions of Heddle that disagree each writes once for each generation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::sources::object::{Kind, ObjectKey};

/// Name of the writer.
const MANAGER: &str = "heddle";
/// Type of the condition.
const VALID: &str = "Valid";
/// What it says of a policy that is in force.
const ACCEPTED: &str = "in force";
/// Longest wait before writing; random, so that of many nodes one comes first.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Pause after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Longest message of an Event, bytes (Kubernetes takes 1024).
const MESSAGE_MAX: usize = 1000;

/// What we think of one version of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opinion {
    pub(super) generation: i64,
    /// Field path, reason and what is in force instead.
    pub(super) refusal: Option<String>,
}

/// The condition as it stands in the object.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reported {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    observed_generation: i64,
    last_transition_time: Option<String>,
}

impl Reported {
    /// The condition in a status, if there is one.
    pub(super) fn of(status: &Value) -> Option<Self> {
        let conditions = status.get("conditions")?.as_array()?.iter();
        conditions.filter_map(|c| Self::deserialize(c).ok()).find(|condition| condition.kind == VALID)
    }

    fn says(&self, opinion: &Opinion) -> bool {
        let message = opinion.refusal.as_deref().unwrap_or(ACCEPTED);
        (self.observed_generation, self.status.as_str(), self.message.as_str())
            == (opinion.generation, status(opinion), message)
    }
}

fn status(opinion: &Opinion) -> &'static str {
    if opinion.refusal.is_none() { "True" } else { "False" }
}

/// One that is to be written.
#[derive(Clone, Debug)]
struct Due {
    opinion: Opinion,
    uid: Option<String>,
    /// Since when the status has been what it is, if it stays so.
    since: Option<String>,
}

/// Opinions between the worker and [`write`].
#[derive(Debug, Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    told: BTreeMap<ObjectKey, Opinion>,
    due: BTreeMap<ObjectKey, Due>,
}

impl Reports {
    /// An opinion of a policy whose status says `reported`.
    pub(super) fn want(
        &self,
        key: ObjectKey,
        opinion: Opinion,
        uid: Option<String>,
        reported: Option<Reported>,
    ) {
        let mut state = self.lock();
        if reported.as_ref().is_some_and(|r| r.says(&opinion)) {
            state.due.remove(&key);
            state.told.insert(key, opinion);
        } else if state.told.get(&key) != Some(&opinion) {
            let since =
                reported.filter(|r| r.status == status(&opinion)).and_then(|r| r.last_transition_time);
            state.told.insert(key.clone(), opinion.clone());
            state.due.insert(key, Due { opinion, uid, since });
            self.news.notify_one();
        }
    }

    /// A policy that is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        let mut state = self.lock();
        state.told.remove(key);
        state.due.remove(key);
    }

    fn next(&self) -> Option<(ObjectKey, Due)> {
        self.lock().due.pop_first()
    }

    /// Puts one back that could not be written, unless there is a newer one.
    fn again(&self, key: ObjectKey, due: Due) {
        let mut state = self.lock();
        if state.told.get(&key) == Some(&due.opinion) {
            state.due.insert(key, due);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether objects of this kind have a status to write to.
pub(super) fn has_status(kind: Kind) -> bool {
    matches!(kind, Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy)
}

/// Writes what is due, for ever.
pub(super) async fn write(client: Client, reports: Arc<Reports>) {
    loop {
        reports.news.notified().await;
        sleep(WAIT_MAX.mul_f64(fastrand::f64())).await;
        while let Some((key, due)) = reports.next() {
            match write_one(&client, &key, &due).await {
                Ok(()) => {}
                // Deleted meanwhile, or its kind.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    tracing::warn!("the status of {key} cannot be written: {}", super::words(&error));
                    reports.again(key, due);
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

async fn write_one(client: &Client, key: &ObjectKey, due: &Due) -> kube::Result<()> {
    let resource = super::resource(key.kind);
    let api: Api<DynamicObject> = match key.namespace.as_str() {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let now = jiff::Timestamp::now();
    let condition = json!({
        "type": VALID,
        "status": status(&due.opinion),
        "reason": if due.opinion.refusal.is_none() { "Accepted" } else { "Refused" },
        "message": due.opinion.refusal.as_deref().unwrap_or(ACCEPTED),
        "observedGeneration": due.opinion.generation,
        "lastTransitionTime": due.since.clone().unwrap_or_else(|| now.to_string()),
    });
    // Applied, not merged: conditions of others stay.
    let patch = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {"name": key.name, "uid": due.uid},
        "status": {"conditions": [condition]},
    });
    api.patch_status(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch)).await?;
    let Some(refusal) = &due.opinion.refusal else { return Ok(()) };
    // An Event must lie in some namespace.
    let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    events.create(&PostParams::default(), &event(key, namespace, due, refusal, Time(now))).await?;
    Ok(())
}

fn event(key: &ObjectKey, namespace: &str, due: &Due, refusal: &str, now: Time) -> Event {
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", key.name)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(key.kind.api_version().to_owned()),
            kind: Some(key.kind.name().to_owned()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: due.uid.clone(),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some("Refused".to_owned()),
        message: Some(refusal.chars().take(MESSAGE_MAX / 4).collect()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        source: Some(EventSource { component: Some(MANAGER.to_owned()), host: None }),
        reporting_component: Some(MANAGER.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(status: &str, message: &str) -> Option<Reported> {
        let status = json!({"conditions": [{"type": "Other"}, {"type": VALID, "status": status,
            "message": message, "observedGeneration": 1, "lastTransitionTime": "2026-11-22T10:00:00Z"}]});
        Reported::of(&status)
    }

    #[test]
    fn what_the_status_says_already_is_not_written_and_no_two_versions_take_turns() {
        let reports = Reports::default();
        let key = ObjectKey {
            kind: Kind::CiliumNetworkPolicy,
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
        };
        let mut opinion = Opinion { generation: 1, refusal: None };
        reports.want(key.clone(), opinion.clone(), None, reported("True", ACCEPTED));
        assert!(reports.next().is_none(), "it says so");
        // Somebody else thinks otherwise: we have had our say.
        reports.want(key.clone(), opinion.clone(), None, reported("False", "no"));
        assert!(reports.next().is_none());
        opinion.refusal = Some("spec: wrong".to_owned());
        reports.want(key.clone(), opinion.clone(), None, reported("False", "no"));
        let (_, due) = reports.next().expect("a new opinion");
        assert_eq!(due.since.as_deref(), Some("2026-11-22T10:00:00Z"), "it was False before");
        // Another node was faster.
        opinion.generation = 2;
        reports.want(key.clone(), opinion.clone(), None, None);
        let status = json!({"conditions": [{"type": VALID, "status": "False", "message": "spec: wrong",
            "observedGeneration": 2}]});
        reports.want(key, opinion, None, Reported::of(&status));
        assert!(reports.next().is_none());
    }
}
