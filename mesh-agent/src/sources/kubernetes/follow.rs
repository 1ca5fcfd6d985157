//! One kind: listed in pages, then watched from there on for ever.
//!
//! The loop is our own and not `kube::runtime`'s, since it must tell when a watch stands again (a trouble is
//! over then), resume without a new list after the server was away, and take a 410 wherever it comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::inbox::{Inbox, Subject};
use super::objects::Watched;
use crate::sources::object::{Kind, ObjectKey};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// How long the server lets one watch run, in seconds.
const WATCH_SECONDS: u32 = 290;
/// A watch that is silent for longer than it may run is dead.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// Longest time for one page.
const LIST_MAX: Duration = Duration::from_secs(60);
/// First and longest pause after a failure; random below that, so that nodes do not come all at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// A watch that lasted as long has been a success.
const LASTING: Duration = Duration::from_secs(5);

/// Why a round ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Refused(String),
    #[error("the version to go on from is gone (410)")]
    Expired,
    #[error("the watch ended: {0}")]
    Watch(String),
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// Follows one kind.
pub(super) struct Follower<K> {
    api: Api<K>,
    kind: Kind,
    inbox: Arc<Inbox>,
    known: BTreeSet<ObjectKey>,
    /// Where to go on; `None`: a list is needed.
    version: Option<String>,
}

impl<K: Watched> Follower<K> {
    pub(super) fn new(api: Api<K>, kind: Kind, inbox: Arc<Inbox>) -> Self {
        Self { api, kind, inbox, known: BTreeSet::new(), version: None }
    }

    /// Runs for ever. `returns` counts how often the server came back: connections from before may be dead.
    pub(super) async fn run(mut self, mut returns: watch::Receiver<u64>) {
        let mut pause = PAUSE.0;
        loop {
            let began = Instant::now();
            let outcome = tokio::select! {
                outcome = self.round() => outcome,
                Ok(()) = returns.changed() => Ok(()),
            };
            if began.elapsed() >= LASTING {
                pause = PAUSE.0;
            }
            match outcome {
                Ok(()) if began.elapsed() >= LASTING => continue,
                Ok(()) => {}
                Err(Broken::Watch(why)) => tracing::debug!("{}: {why}", self.kind.name()),
                Err(Broken::Expired) => self.version = None,
                Err(error) => self.trouble(Some(error.to_string())),
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn trouble(&self, reason: Option<String>) {
        let reason = reason.map(|why| format!("{} objects cannot be read: {why}", self.kind.name()));
        self.inbox.trouble(Subject::Kind(self.kind), reason);
    }

    /// Lists if need be, then watches until that ends.
    async fn round(&mut self) -> Result<(), Broken> {
        let version = match &self.version {
            Some(version) => version.clone(),
            None => match self.list().await? {
                Some(version) => version,
                None => return Ok(()),
            },
        };
        let parameters = WatchParams::default().timeout(WATCH_SECONDS);
        let opened = timeout(LIST_MAX, self.api.watch(&parameters, &version)).await;
        let stream = opened.map_err(|_| Broken::Silent(LIST_MAX))?.map_err(broken)?;
        self.trouble(None);
        let mut stream = std::pin::pin!(stream);
        loop {
            let next = timeout(SILENCE_MAX, stream.try_next()).await;
            match next.map_err(|_| Broken::Silent(SILENCE_MAX))? {
                Ok(Some(event)) => self.take(event)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(Broken::Watch(super::words(&error))),
            }
        }
    }

    fn take(&mut self, event: WatchEvent<K>) -> Result<(), Broken> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.version = object.resource_version();
                self.put(object);
            }
            WatchEvent::Deleted(object) => {
                self.version = object.resource_version();
                let key = self.key(&object);
                self.known.remove(&key);
                self.inbox.put(key, None);
            }
            WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
            WatchEvent::Error(status) if status.code == 410 => return Err(Broken::Expired),
            WatchEvent::Error(status) => return Err(Broken::Watch(status.message)),
        }
        Ok(())
    }

    fn put(&mut self, object: K) -> ObjectKey {
        let key = self.key(&object);
        self.known.insert(key.clone());
        self.inbox.put(key.clone(), Some(object.read(self.kind)));
        key
    }

    fn key(&self, object: &K) -> ObjectKey {
        let namespace = object.namespace().unwrap_or_default();
        ObjectKey { kind: self.kind, namespace, name: object.name_any() }
    }

    /// Every object in pages. What is not among them is gone, and only at the end: a list that breaks half
    /// way takes nothing away. `None`: the kind does not exist in this cluster.
    async fn list(&mut self) -> Result<Option<String>, Broken> {
        let mut seen = BTreeSet::new();
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = timeout(LIST_MAX, self.api.list(&parameters)).await;
            let page = match page.map_err(|_| Broken::Silent(LIST_MAX))? {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    self.absent().await?;
                    return Ok(None);
                }
                page => page.map_err(broken)?,
            };
            seen.extend(page.items.into_iter().map(|object| self.put(object)));
            let more = page.metadata.continue_.filter(|token| !token.is_empty());
            if more.is_none() {
                self.version = page.metadata.resource_version;
                break;
            }
            parameters.continue_token = more;
        }
        for gone in std::mem::replace(&mut self.known, seen).difference(&self.known) {
            self.inbox.put(gone.clone(), None);
        }
        self.inbox.listed(self.kind);
        self.trouble(None);
        Ok(self.version.clone())
    }

    /// The server says that it has no such kind. That is so in a cluster without the definitions of
    /// cilium.io; but a server that has just started says so too, before it has read its definitions. So the
    /// definition itself is asked for, and what is known of the kind stays in any case.
    async fn absent(&self) -> Result<(), Broken> {
        let resource = super::resource(self.kind);
        let name = format!("{}.{}", resource.plural, resource.group);
        let definitions: Api<CustomResourceDefinition> = Api::all(self.api.clone().into_client());
        match definitions.get_opt(&name).await.map_err(broken)? {
            None if self.known.is_empty() => {
                self.trouble(Some(format!("CustomResourceDefinition {name} is missing: see `heddle crds`")));
                self.inbox.listed(self.kind);
                Ok(())
            }
            None => Err(Broken::Watch(format!("CustomResourceDefinition {name} is gone"))),
            Some(_) => Err(Broken::Watch("the server does not serve the kind yet".to_owned())),
        }
    }
}

fn broken(error: kube::Error) -> Broken {
    match error {
        kube::Error::Api(status) if status.code == 410 => Broken::Expired,
        other => Broken::Refused(super::words(&other)),
    }
}
