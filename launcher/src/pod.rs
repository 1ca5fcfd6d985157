//! The life of one pod: surroundings, init containers one after the other, containers side by side, end.

mod container;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::plan::PodPlan;
use crate::sandbox::{Sandbox, Shared};
use crate::status::Phase;
use container::{Ended, Role};

/// First pause before surroundings that could not be made are tried again; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often surroundings that cannot be removed are tried before they are left to the next launcher.
const REMOVE_TRIES: u32 = 10;

/// Tells a pod to end. Also ends it if nobody can tell it any more.
#[derive(Clone, Debug)]
pub(crate) struct Stop(pub(crate) watch::Receiver<bool>);

impl Stop {
    pub(crate) async fn wait(&mut self) {
        self.0.wait_for(|stop| *stop).await.ok();
    }

    fn is_set(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// Runs a pod until it is told to end, and returns when nothing of it is left.
pub(crate) async fn run(shared: Arc<Shared>, plan: Arc<PodPlan>, mut stop: Stop) {
    let key = &plan.key;
    let names = plan.containers.iter().map(|c| c.name.clone());
    shared.board.begin(key, names, plan.warnings.join("; "));
    for warning in &plan.warnings {
        warn!(pod = %key, "{warning}");
    }
    // Before the pod is attached: one that nobody had called unready would count as ready at once.
    shared.board.told(key).await;
    let Some(sandbox) = surroundings(&shared, &plan, &mut stop).await else { return };
    let sandbox = Arc::new(sandbox);
    let addresses = sandbox.addresses.clone();
    info!(pod = %key, ?addresses, "started");
    shared.board.update(key, |pod| pod.addresses = addresses);
    let ended = containers(&shared, &plan, &sandbox, &stop).await;
    let phase = match ended {
        Ended::Well => Phase::Succeeded,
        Ended::Badly => Phase::Failed,
        Ended::Stopped => Phase::Terminating,
    };
    shared.board.update(key, |pod| pod.phase = phase);
    remove(&shared, &plan, &sandbox).await;
    info!(pod = %key, ?phase, "ended");
    stop.wait().await;
}

/// Makes the surroundings, however often it takes; `None` if the pod was told to end meanwhile.
async fn surroundings(shared: &Shared, plan: &PodPlan, stop: &mut Stop) -> Option<Sandbox> {
    let mut pause = RETRY_PAUSE;
    loop {
        if stop.is_set() {
            return None;
        }
        match Sandbox::create(shared, plan).await {
            Ok(sandbox) => return Some(sandbox),
            Err(error) => {
                warn!(pod = %plan.key, %error, retry = ?pause, "cannot start");
                shared.board.update(&plan.key, |pod| pod.message = error.to_string());
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.wait() => return None,
        }
        pause = RETRY_PAUSE_MAX.min(pause * 2);
    }
}

async fn containers(shared: &Arc<Shared>, plan: &Arc<PodPlan>, sandbox: &Arc<Sandbox>, stop: &Stop) -> Ended {
    for index in 0..plan.init.len() {
        let role = Role::Init(index);
        let ended =
            container::run(Arc::clone(shared), Arc::clone(plan), Arc::clone(sandbox), role, stop.clone());
        match ended.await {
            Ended::Well => {}
            other => return other,
        }
    }
    shared.board.update(&plan.key, |pod| pod.phase = Phase::Running);
    let mut all = JoinSet::new();
    for index in 0..plan.containers.len() {
        let (shared, plan, sandbox) = (Arc::clone(shared), Arc::clone(plan), Arc::clone(sandbox));
        all.spawn(container::run(shared, plan, sandbox, Role::Main(index), stop.clone()));
    }
    let ends = all.join_all().await;
    if ends.contains(&Ended::Stopped) {
        Ended::Stopped
    } else if ends.contains(&Ended::Badly) {
        Ended::Badly
    } else {
        Ended::Well
    }
}

async fn remove(shared: &Shared, plan: &PodPlan, sandbox: &Sandbox) {
    for _ in 0..REMOVE_TRIES {
        match sandbox.remove(&shared.options).await {
            Ok(()) => return,
            Err(error) => warn!(pod = %plan.key, %error, "cannot remove what it ran in"),
        }
        sleep(RETRY_PAUSE).await;
    }
}
