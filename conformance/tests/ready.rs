//! Ready means ready: once `heddle status` says that all pods are, names resolve and services connect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use conformance::host::run;
use conformance::{Node, host};

/// Starts of a node, half of them with every CPU busy.
const ROUNDS: usize = 20;

const MANIFESTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers: [{name: main, image: none, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: orders, namespace: shop, labels: {app: orders}}
spec:
  containers:
    - name: main
      image: none
      command: [python3, -m, http.server, --bind, '0.0.0.0', '8080']
      ports: [{name: http, containerPort: 8080}]
      readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: orders, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: orders}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: web}}]
      toPorts: [{ports: [{port: http, protocol: TCP}], RULES}]
";

/// Keeps every CPU busy until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let end = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            let end = end.clone();
            std::thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(end)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_ready_answers_by_name_at_once() {
    if !host::privileged("what_is_ready_answers_by_name_at_once") {
        return;
    }
    for round in 0..ROUNDS {
        let _busy = (round % 2 == 1).then(Busy::start);
        // By turns through the proxy, and translated at connect.
        let rules = if round % 4 < 2 { "rules: {http: [{method: GET}]}" } else { "" };
        let manifests = MANIFESTS.replace(", RULES", &format!(", {rules}"));
        let node = Node::builder(&format!("ready{round}")).file("all.yaml", &manifests).start();
        run(&mut node.heddle(&["status", "--wait"]));
        let web = node.running_pod("shop/web");
        let (status, body) = web.curl(&["http://orders/"]);
        assert_eq!(status, 200, "round {round}: {body}\n{}", node.log());
    }
}
