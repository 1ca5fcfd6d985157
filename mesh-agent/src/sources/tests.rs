//! The whole source on real folders: what a user does to files, and what is in force after it.

mod assembly;
mod broken;
mod built_in;
mod folder;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::snapshot::PolicyObject;
use tempfile::TempDir;

use super::*;

/// Longest wait for the source to notice something.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A folder with a source that watches it.
struct Fixture {
    /// Before the folders, so that it ends first.
    sources: Sources,
    manifests: TempDir,
    state: TempDir,
}

fn surrounding() -> Surrounding {
    Surrounding {
        node: "here".to_owned(),
        node_addresses: vec!["192.0.2.1".parse().expect("address")],
        service_cidrs: vec!["10.96.0.0/16".parse().expect("block"), "fd00:96::/112".parse().expect("block")],
        first_revision: 1,
        ..Surrounding::default()
    }
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let manifests = TempDir::new().expect("folder");
        for (name, text) in files {
            write(manifests.path(), name, text);
        }
        Self::over(manifests, TempDir::new().expect("folder"))
    }

    fn over(manifests: TempDir, state: TempDir) -> Self {
        let options = Options {
            manifests: manifests.path().to_owned(),
            state_dir: state.path().to_owned(),
            surrounding: surrounding(),
            ..Options::default()
        };
        let sources = Sources::start(options).expect("starts");
        Self { sources, manifests, state }
    }

    /// The same folders after a restart.
    fn restarted(self) -> Self {
        let Self { sources, manifests, state } = self;
        drop(sources);
        Self::over(manifests, state)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.manifests.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        write(self.manifests.path(), name, text);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }

    fn now(&self) -> Arc<Published> {
        self.sources.published.borrow().clone()
    }

    /// Waits until the published state is as it should be.
    fn until(&self, what: &str, is: impl Fn(&Published) -> bool) -> Arc<Published> {
        let end = Instant::now() + WAIT_MAX;
        loop {
            let now = self.now();
            if is(&now) {
                return now;
            }
            assert!(Instant::now() < end, "not seen: {what}; problems: {:#?}", texts(&now));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn attach(&self, pod: &str, endpoint: u32, address: &str) {
        self.sources.registry().upsert(Registration {
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            endpoint,
            addresses: vec![address.parse().expect("address")],
            ready: true,
        });
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    fs::write(path, text).expect("written");
}

fn texts(published: &Published) -> Vec<String> {
    published.problems.iter().map(ToString::to_string).collect()
}

/// Whether some problem has all of these parts.
fn tells(published: &Published, parts: &[&str]) -> bool {
    texts(published).iter().any(|text| parts.iter().all(|part| text.contains(part)))
}

fn policy(published: &Published, name: &str) -> Option<Arc<PolicyObject>> {
    published.snapshot.policies.get(&format!("CiliumNetworkPolicy/default/{name}")).cloned()
}

/// A policy that allows one port; `port` stands as it is written.
fn allow(name: &str, port: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {name}\nspec:\n  endpointSelector:\n    matchLabels:\n      app: web\n  ingress:\n    - toPorts:\n        - ports:\n            - port: {port}\n              protocol: TCP\n"
    )
}

fn pod(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  containers:\n    - name: main\n      image: none\n      resources: {{limits: {{cpu: 1}}}}\n      ports: [{{name: http, containerPort: 8080}}]\n"
    )
}

fn service(name: &str, app: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {app}}}\n  ports: [{{port: 80, targetPort: http}}]\n{more}"
    )
}
