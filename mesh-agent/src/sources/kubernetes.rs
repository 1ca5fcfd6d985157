//! The API server of a cluster as the source: each kind is listed and watched ([`follow`]), objects are
//! trimmed to what is used ([`objects`]), a flood of changes folds into the newest state of each object
//! ([`inbox`]), and one thread ([`worker`]) passes it on like the folder's. What became of policies goes back
//! into their status ([`report`]).
//!
//! While the API server is away, what was last seen stays in force; problems say so ([`server`]).

mod follow;
mod inbox;
mod objects;
mod report;
mod server;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client, Config};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::follow::Follower;
use self::inbox::Inbox;
use self::report::Reports;
use self::worker::Worker;
use super::object::Kind;
use super::outlet::Outlet;
use super::{Registration, Registry, Sources, StartError, Surrounding};

/// What the source starts from.
#[derive(Debug)]
pub struct Options {
    pub access: Config,
    /// Folder for what must survive a restart.
    pub state_dir: PathBuf,
    pub surrounding: Surrounding,
    /// The pods that are attached already, so that the first snapshot has them.
    pub attached: Vec<Registration>,
}

/// Why the API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error(
        "this process is in no pod of a cluster ({0}): use --kubeconfig, or a service account and \
         KUBERNETES_SERVICE_HOST"
    )]
    InCluster(#[from] kube::config::InClusterError),
    #[error("cannot make a client of the API server: {0}")]
    Client(#[from] kube::Error),
}

/// How to reach the API server: by a kubeconfig file, or as a pod of the cluster does.
///
/// # Errors
/// The file cannot be used, or this is no pod.
pub async fn access(kubeconfig: Option<&PathBuf>) -> Result<Config, AccessError> {
    let Some(path) = kubeconfig else { return Ok(Config::incluster()?) };
    let failed = |source| AccessError::Kubeconfig { path: path.clone(), source };
    let file = kube::config::Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await.map_err(failed)
}

impl Sources {
    /// Lists everything once, then watches. Returns when the first state is complete, however long the API
    /// server is away; until then the log says what is missing.
    ///
    /// # Errors
    /// The state of the last run cannot be read, or the access cannot work.
    pub async fn follow_cluster(options: Options) -> Result<Self, StartError> {
        let client = Client::try_from(options.access).map_err(AccessError::from)?;
        let inbox = Arc::new(Inbox::default());
        let registry = Registry::new(inbox.clone(), options.attached);
        let surrounding = Surrounding { managed: true, ..options.surrounding };
        let ready = worker::Readiness::of(&surrounding);
        let (outlet, mut published) = Outlet::open(options.state_dir, surrounding, registry.clone())?;
        let mut tasks = watch_all(&client, &inbox);
        let reports = Arc::new(Reports::default());
        tasks.spawn(report::write(client, reports.clone()));
        let worker = Worker::new(outlet, inbox.clone(), reports, ready);
        let thread = std::thread::Builder::new().name("sources".to_owned()).spawn(|| worker.run());
        let thread = Some(thread.map_err(StartError::Thread)?);
        let sources = Self { registry, published: published.clone(), source: inbox, thread, _tasks: tasks };
        // The sender lives as long as the thread.
        let _ = published.wait_for(|state| state.snapshot.revision != 0).await;
        Ok(sources)
    }
}

/// One task for each kind, and one that asks whether the server is there.
fn watch_all(client: &Client, inbox: &Arc<Inbox>) -> JoinSet<()> {
    let (returned, returns) = watch::channel(0);
    let mut tasks = JoinSet::new();
    tasks.spawn(server::heartbeat(client.clone(), inbox.clone(), returned));
    macro_rules! typed {
        ($($kind:ident),*) => {
            $(let api: Api<$kind> = Api::all(client.clone());
            tasks.spawn(Follower::new(api, Kind::$kind, inbox.clone()).run(returns.clone()));)*
        };
    }
    typed!(Namespace, Node, Pod, Service, EndpointSlice);
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_policy()) {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
        tasks.spawn(Follower::new(api, kind, inbox.clone()).run(returns.clone()));
    }
    tasks
}

/// What an error of the client says: the server's own words, or every cause down to the first.
pub(crate) fn words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// How the API names a kind.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    let api_version = kind.api_version();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.name().to_owned(),
        plural: match kind {
            Kind::NetworkPolicy => "networkpolicies".to_owned(),
            Kind::CiliumNetworkPolicy => "ciliumnetworkpolicies".to_owned(),
            Kind::CiliumClusterwideNetworkPolicy => "ciliumclusterwidenetworkpolicies".to_owned(),
            other => format!("{}s", other.name().to_ascii_lowercase()),
        },
    }
}
