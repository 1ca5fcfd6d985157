//! From a snapshot to what is in force: compile, tell the proxy, then the kernel.
//!
//! Order: the proxy knows a thing before the kernel sends it there, and the kernel has forgotten a thing
//! before the proxy does. A proxy that does not answer holds nobody up for more than [`ACK_MAX`]: a dead
//! one must not preserve a laxer policy, and what would need it is dropped by the kernel until it is back.

pub mod kernel;
pub mod maps;
pub mod mark;
pub mod message;
pub mod proxy;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use policy::{CompiledPolicy, Snapshot};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};

use crate::flows::view::View;
use crate::sources;
use kernel::{KernelGone, KernelHandle};
use maps::{KernelState, Link, ServiceNumbers};
use mark::{Mark, MarkFile};
use message::ProxyState;
use proxy::{Acknowledged, ProxyHub};

/// How long the kernel waits for the proxy.
pub const ACK_MAX: Duration = Duration::from_secs(1);
/// How long an agent that takes over a running node waits for the proxy to find it. A kernel that went ahead
/// would send the proxy connections of a revision that nobody can tell it yet.
const PROXY_RETURN_MAX: Duration = Duration::from_secs(3);
/// After how long a state that could not be written whole is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// 0: nothing yet.
    pub revision: u32,
    pub view: Arc<View>,
    /// Endpoints whose programs and policy are in the kernel.
    pub endpoints: BTreeSet<u32>,
    /// What could not be put in force.
    pub problems: Vec<String>,
    /// Why the note for the next process could not be written.
    pub mark_problem: Option<String>,
    /// The proxy that refused or was late for this revision, if one did.
    pub proxy_problem: Option<String>,
}

/// Links by endpoint id, of every pod that is attached; asked before each publication.
pub trait Veths: Send + Sync + 'static {
    fn veths(&self) -> BTreeMap<u32, Link>;
}

/// The compiler: one that remembers what it has compiled before.
pub type Compile = Box<dyn FnMut(&Snapshot) -> CompiledPolicy + Send + Sync>;

/// What a publisher works with.
pub struct Parts<V> {
    pub kernel: KernelHandle,
    pub proxies: ProxyHub,
    pub veths: Arc<V>,
    pub published: watch::Sender<Arc<Published>>,
    /// Wakes the publisher when a veth has come, gone or changed.
    pub wake: Arc<Notify>,
    pub compile: Compile,
    /// Last revision that was in force, of an earlier process too: it never goes back.
    pub revision: u32,
    /// What an earlier process had put in force.
    pub mark: MarkFile,
    /// Counts what was put in force.
    pub publications: Counter,
}

impl<V> std::fmt::Debug for Parts<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// Turns snapshots into what is in force, one at a time.
#[derive(Debug)]
pub struct Publisher<V> {
    parts: Parts<V>,
    last: Last,
}

#[derive(Debug, Default)]
struct Last {
    kernel: KernelState,
    proxy: Arc<ProxyState>,
    numbers: ServiceNumbers,
    /// Of what is in force, if it could not be written.
    unmarked: Option<Mark>,
}

impl<V: Veths> Publisher<V> {
    /// Nothing is published before [`run`](Self::run).
    pub fn new(parts: Parts<V>) -> Self {
        Self { parts, last: Last::default() }
    }

    /// Publishes every snapshot until the source or the kernel thread ends. A snapshot of revision 0 is
    /// none: the source is still loading, and less than the truth must not replace what is in force.
    pub async fn run(
        mut self,
        mut source: watch::Receiver<Arc<sources::Published>>,
    ) -> Result<(), KernelGone> {
        source.mark_changed();
        loop {
            let again = !self.parts.published.borrow().problems.is_empty();
            let unmarked = self.last.unmarked.is_some();
            let retry = async {
                if again || unmarked {
                    tokio::time::sleep(RETRY_AFTER).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                changed = source.changed() => if changed.is_err() { return Ok(()) },
                () = self.parts.wake.notified() => {}
                () = retry => if unmarked {
                    self.leave_again();
                    if !again {
                        continue;
                    }
                },
            }
            let snapshot = source.borrow_and_update().snapshot.clone();
            if snapshot.revision != 0 {
                self.publish(snapshot, again).await?;
            }
        }
    }

    /// Puts one snapshot in force. `force`: also if nothing seems to have changed.
    async fn publish(&mut self, snapshot: Arc<Snapshot>, force: bool) -> Result<(), KernelGone> {
        let mut compiled = tokio::task::block_in_place(|| (self.parts.compile)(&snapshot));
        compiled.revision = self.parts.revision.checked_add(1).unwrap_or(1);
        let veths = self.parts.veths.veths();
        let mut kernel = KernelState::new(&snapshot, &compiled, &veths, &mut self.last.numbers);
        let mut proxy = ProxyState::new(&snapshot, &compiled, &self.last.proxy);
        let first = self.parts.published.borrow().revision == 0;
        let same_kernel = kernel.equivalent(&self.last.kernel);
        let same_proxy = proxy.equivalent(&self.last.proxy);
        if !first && !force && same_kernel && same_proxy {
            // Something that neither of them knows of: names for the API.
            compiled.revision = self.parts.revision;
            let view = Arc::new(View::new(snapshot, Arc::new(compiled)));
            self.parts.published.send_modify(|p| *p = Arc::new(Published { view, ..(**p).clone() }));
            return Ok(());
        }
        if first && self.parts.revision != 0 {
            // A process that takes over: what is in force may be just this.
            if self.parts.mark.is(Mark::new(&proxy, self.parts.revision)) {
                compiled.revision = self.parts.revision;
            } else {
                self.parts.proxies.connected(PROXY_RETURN_MAX).await;
            }
        }
        self.parts.revision = compiled.revision;
        kernel.revision = self.parts.revision;
        proxy.revision = self.parts.revision;
        let proxy = Arc::new(proxy);

        let both = proxy.with_remains_of(&self.last.proxy);
        let removes = !both.equivalent(&proxy);
        self.parts.proxies.publish(Arc::new(both));
        let proxy_problem = self.wait_for_proxies().await;
        let applied = self.parts.kernel.apply(kernel.clone()).await?;
        if removes {
            self.parts.proxies.publish(proxy.clone());
        }
        let mark = applied.problems.is_empty().then(|| Mark::new(&proxy, self.parts.revision));
        let mark_problem = self.leave(mark);
        for problem in &applied.problems {
            tracing::error!("revision {}: {problem}", self.parts.revision);
        }
        self.last.kernel = kernel;
        self.last.proxy = proxy;
        let view = Arc::new(View::new(snapshot, Arc::new(compiled)));
        self.parts.published.send_replace(Arc::new(Published {
            revision: self.parts.revision,
            view,
            endpoints: applied.endpoints,
            problems: applied.problems,
            mark_problem,
            proxy_problem,
        }));
        self.parts.publications.inc();
        tracing::info!("revision {} is in force", self.parts.revision);
        Ok(())
    }

    /// Leaves the mark, later if not now; says why not now.
    fn leave(&mut self, mark: Option<Mark>) -> Option<String> {
        let error = mark.and_then(|mark| self.parts.mark.leave(mark).err());
        self.last.unmarked = mark.filter(|_| error.is_some());
        error.map(|error| {
            tracing::warn!("{error}");
            error.to_string()
        })
    }

    /// Tries again to leave a mark that could not be.
    fn leave_again(&mut self) {
        let mark_problem = self.leave(self.last.unmarked);
        self.parts.published.send_modify(|p| *p = Arc::new(Published { mark_problem, ..(**p).clone() }));
    }

    async fn wait_for_proxies(&self) -> Option<String> {
        let problem = match self.parts.proxies.acknowledged(self.parts.revision, ACK_MAX).await {
            Acknowledged::ByAll | Acknowledged::NobodyAsked => return None,
            Acknowledged::Late => format!(
                "the proxy did not acknowledge revision {} within {ACK_MAX:?}: not waited for",
                self.parts.revision
            ),
            Acknowledged::Refused(why) => {
                format!("the proxy refused revision {}: {why}", self.parts.revision)
            }
        };
        tracing::error!("{problem}");
        Some(problem)
    }
}

#[cfg(test)]
mod tests;
