//! The command line of `heddle agent`. `heddle run` takes the same arguments and passes them on.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;
use ipnet::IpNet;
use policy::snapshot::{AllowLocalhost, Settings};

use super::cni_files::CniFiles;
use crate::layout::Instance;

/// User and group of the proxy.
pub const PROXY_UID: u32 = 64_815;

/// Ranges for pods where neither a Node manifest nor the command line gives any; a cluster gives some.
const POD_CIDRS: [&str; 2] = ["10.244.0.0/24", "fd00:10:244::/64"];

/// Run the node agent: reads manifests, loads the eBPF programs, keeps kernel and proxy up to date.
///
/// It can be stopped, killed and upgraded without traffic noticing: what is in force stays in force.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle agent --manifests /etc/heddle/manifests
  heddle --instance test agent --manifests ./shop --pod-cidr 10.9.0.0/24 --no-masquerade
  heddle agent --kubernetes --node-name worker-1 --cni-bin-dir /opt/cni/bin --cni-conf-dir /etc/cni/net.d
See `heddle run` for a whole node in one command.")]
pub struct Args {
    #[command(flatten)]
    pub node: NodeArgs,
}

/// What describes a node.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// Folder of Kubernetes manifests; watched.
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes")]
    pub manifests: Option<PathBuf>,
    /// Follow the API server of a cluster in place of a folder.
    #[arg(long, conflicts_with_all = ["manifests", "cluster_dns"])]
    pub kubernetes: bool,
    /// How to reach it. [default: as a pod of the cluster does]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node in manifests. [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Range for pods' addresses, one or more; a Node manifest's spec.podCIDRs come first.
    /// [default: 10.244.0.0/24 and fd00:10:244::/64; none in a cluster]
    #[arg(long = "pod-cidr", value_name = "CIDR", value_parser = pod_cidr)]
    pub pod_cidrs: Vec<IpNet>,
    /// Range for the addresses of services that ask for one.
    #[arg(long = "service-cidr", value_name = "CIDR", value_parser = cidr)]
    #[arg(default_values = ["10.96.0.0/16", "fd00:10:96::/112"])]
    pub service_cidrs: Vec<IpNet>,
    /// Add a DNS server to the manifests, Service kube-system/kube-dns and its pod, unless they have one.
    /// `heddle run --run-pods` does so anyway.
    #[arg(long)]
    pub cluster_dns: bool,
    /// Server that it asks for names outside the cluster; without any, such names are refused.
    #[arg(long = "dns-upstream", value_name = "IP")]
    pub dns_upstream: Vec<IpAddr>,
    /// Pods keep their own address on the way to the world.
    #[arg(long)]
    pub no_masquerade: bool,
    /// Whether the node may always reach its own pods, or policy decides.
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN")]
    pub allow_localhost: Localhost,
    /// Name of the cluster, part of every identity.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub cluster: String,
    /// Devices that bring packets from outside. [default: those of the default routes]
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<String>,
    /// Cgroup v2 below which connects to services are translated, for processes in the network namespaces of
    /// the node and of its pods. [default: all of the machine]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Put the CNI plugin into this folder of the runtime, and keep it there.
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// And its configuration into this one, once policy is in force.
    #[arg(long, value_name = "DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// User and group of the proxy; not root.
    #[arg(long, default_value_t = PROXY_UID, value_parser = proxy_uid, value_name = "NUMBER")]
    pub uid: u32,
    /// Events that each CPU may report in a second; what is left out is counted. 0 = no limit.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub events_per_second: u32,
    /// UDP port of a tunnel between nodes: no pod may send to it.
    #[arg(long, default_value_t = 8472, value_name = "PORT")]
    pub tunnel_port: u16,
    /// Where Prometheus reads, ADDRESS:PORT: nothing but metrics is served there. By default on every
    /// address, as scrapers expect of a node; 127.0.0.1:15020 keeps it to the node itself.
    #[arg(long, default_value = "[::]:15020", value_name = "ADDRESS", value_parser = listen_address)]
    pub metrics_address: SocketAddr,
    /// Address of an API server outside the cluster's nodes (entity kube-apiserver).
    #[arg(long = "kube-apiserver", value_name = "IP")]
    pub kube_apiserver: Vec<IpAddr>,
}

/// A block of addresses as CIDR.
fn cidr(text: &str) -> Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let bits = if ip.is_ipv4() { 24 } else { 64 };
        return Err(format!("the prefix length is missing: write for example {ip}/{bits}"));
    }
    let net: IpNet = text.parse().map_err(|_| {
        "not ADDRESS/PREFIX-LENGTH: write for example 10.244.0.0/24 or fd00:10:244::/64".to_owned()
    })?;
    if net.trunc() != net {
        return Err(format!("address bits are set behind the prefix: did you mean {}?", net.trunc()));
    }
    Ok(net)
}

/// A block for pods' addresses: none that cannot be theirs, and room for one.
fn pod_cidr(text: &str) -> Result<IpNet, String> {
    let net = cidr(text)?;
    let ip = net.network();
    if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
        return Err("pods cannot have these addresses: use a private range such as 10.244.0.0/24".into());
    }
    let own = u32::from(net.max_prefix_len() - net.prefix_len());
    if own < 2 {
        return Err(format!("too small for a pod: use a prefix of {} or shorter", net.max_prefix_len() - 2));
    }
    Ok(net)
}

/// A number that the proxy may become.
fn proxy_uid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err(format!("the proxy does not run as root: use another number, such as {PROXY_UID}")),
        Ok(uid) if uid != u32::MAX => Ok(uid),
        _ => Err(format!("not the number of a user: use one such as {PROXY_UID}")),
    }
}

/// An address with its port.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let remedy = "not ADDRESS:PORT: write for example 127.0.0.1:15020 or [::]:15020";
    text.parse().map_err(|_| remedy.to_owned())
}

/// `--allow-localhost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Localhost {
    #[default]
    Always,
    Policy,
}

impl NodeArgs {
    /// The settings that change verdicts.
    pub fn settings(&self) -> Settings {
        Settings {
            allow_localhost: match self.allow_localhost {
                Localhost::Always => AllowLocalhost::Always,
                Localhost::Policy => AllowLocalhost::Policy,
            },
            kube_apiserver: self.kube_apiserver.clone(),
            ..Settings::default()
        }
    }

    /// The node's name, as given or as the host is called.
    pub fn node_name(&self) -> String {
        let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        self.node_name.clone().or_else(host).unwrap_or_else(|| "localhost".into())
    }

    /// The CNI plugin's files, if they are to be installed.
    pub fn cni_files(&self, instance: &Instance) -> Option<CniFiles> {
        Some(CniFiles::new(self.cni_bin_dir.as_ref()?, self.cni_conf_dir.as_ref()?, instance))
    }

    /// Ranges for pods' addresses, if the Node manifest has none.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        if self.pod_cidrs.is_empty() && !self.kubernetes {
            return POD_CIDRS.iter().filter_map(|net| net.parse().ok()).collect();
        }
        self.pod_cidrs.clone()
    }

    /// Addresses of the DNS server's Service: the tenth of the first service range of each family.
    pub fn dns_addresses(&self) -> Vec<IpAddr> {
        let v4 = self.service_cidrs.iter().find(|net| net.addr().is_ipv4());
        let v6 = self.service_cidrs.iter().find(|net| net.addr().is_ipv6());
        let tenth = |net: &IpNet| match net.network() {
            IpAddr::V4(first) => IpAddr::V4((first.to_bits().saturating_add(10)).into()),
            IpAddr::V6(first) => IpAddr::V6((first.to_bits().saturating_add(10)).into()),
        };
        [v4, v6]
            .into_iter()
            .flatten()
            .map(|net| (net, tenth(net)))
            .filter(|(n, ip)| n.contains(ip))
            .map(|(_, ip)| ip)
            .collect()
    }

    /// The same arguments for a child process.
    pub fn to_arguments(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |name: &str, value: String| all.extend([name.to_owned(), value]);
        for (name, path) in [
            ("--manifests", &self.manifests),
            ("--kubeconfig", &self.kubeconfig),
            ("--cni-bin-dir", &self.cni_bin_dir),
            ("--cni-conf-dir", &self.cni_conf_dir),
        ] {
            path.iter().for_each(|path| add(name, path.display().to_string()));
        }
        add("--node-name", self.node_name());
        self.pod_cidrs.iter().for_each(|net| add("--pod-cidr", net.to_string()));
        self.service_cidrs.iter().for_each(|net| add("--service-cidr", net.to_string()));
        let localhost = if self.allow_localhost == Localhost::Always { "always" } else { "policy" };
        add("--allow-localhost", localhost.into());
        add("--cluster", self.cluster.clone());
        self.devices.iter().for_each(|name| add("--device", name.clone()));
        if let Some(cgroup) = &self.cgroup {
            add("--cgroup", cgroup.display().to_string());
        }
        add("--uid", self.uid.to_string());
        add("--events-per-second", self.events_per_second.to_string());
        add("--tunnel-port", self.tunnel_port.to_string());
        add("--metrics-address", self.metrics_address.to_string());
        self.kube_apiserver.iter().for_each(|ip| add("--kube-apiserver", ip.to_string()));
        self.dns_upstream.iter().for_each(|ip| add("--dns-upstream", ip.to_string()));
        if self.kubernetes {
            all.push("--kubernetes".into());
        }
        if self.cluster_dns {
            all.push("--cluster-dns".into());
        }
        if self.no_masquerade {
            all.push("--no-masquerade".into());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_name_the_remedy() {
        let check = |result: Result<(), String>, part: &str| {
            let text = result.expect_err(part);
            assert!(text.contains(part), "{text}");
        };
        let pods = |text| pod_cidr(text).map(drop);
        check(pods("10.244.0.1"), "10.244.0.1/24");
        check(pods("10.244.0.1/24"), "did you mean 10.244.0.0/24?");
        check(pods("10.244.0.0/33"), "10.244.0.0/24 or fd00");
        check(pods("10.244.0.0/31"), "prefix of 30 or shorter");
        check(pods("127.0.0.0/8"), "private range");
        check(pods("shop"), "ADDRESS/PREFIX-LENGTH");
        assert!(pod_cidr("10.244.0.0/24").is_ok() && pod_cidr("fd00:10:244::/64").is_ok());
        check(proxy_uid("0").map(drop), "not run as root");
        check(proxy_uid("www-data").map(drop), "64815");
        check(listen_address(":15020").map(drop), "127.0.0.1:15020");
        check(listen_address("15020").map(drop), "ADDRESS:PORT");
    }
}
