//! The cluster's DNS server as manifests: Service kube-system/kube-dns and the Pod behind it. They are added
//! to the user's own unless those bring a Service of that name.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

/// Namespace and name of the Service.
pub const SERVICE: (&str, &str) = ("kube-system", "kube-dns");
/// The Namespace, the Service and the Pod. `addresses` are the Service's, at most one of each family;
/// names outside the cluster go to `upstreams`, or nowhere.
pub fn manifests(
    heddle: &Path,
    instance: &str,
    addresses: &[IpAddr],
    cluster_domain: &str,
    upstreams: &[IpAddr],
) -> Vec<Value> {
    let (namespace, name) = SERVICE;
    let labels = json!({ "k8s-app": "kube-dns" });
    let mut args =
        vec!["--instance".to_owned(), instance.to_owned(), "dns".to_owned(), "--cluster-domain".to_owned()];
    args.push(cluster_domain.to_owned());
    for upstream in upstreams {
        args.extend(["--upstream".to_owned(), upstream.to_string()]);
    }
    let families: Vec<&str> = addresses.iter().map(|a| if a.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let port = |name: &str, protocol: &str| json!({ "name": name, "port": 53, "protocol": protocol });
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": {
                "clusterIP": addresses.first(),
                "clusterIPs": addresses,
                "ipFamilies": families,
                "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
                "selector": labels,
                "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "annotations": { "heddle.io/agent-api": "true" },
            },
            "spec": {
                // It must not ask itself for names.
                "dnsPolicy": "Default",
                "terminationGracePeriodSeconds": 2,
                "containers": [{
                    "name": "dns",
                    "command": [heddle],
                    "args": args,
                    "ports": [
                        { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                        { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" },
                    ],
                    // It listens once it knows the services.
                    "readinessProbe": {
                        "tcpSocket": { "port": "dns-tcp" },
                        "periodSeconds": 1,
                        "failureThreshold": 1,
                    },
                }],
            },
        }),
    ]
}
