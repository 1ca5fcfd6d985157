//! The state that a folder of manifests describes, without an agent: every pod of this node is taken as
//! attached and ready.

use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use policy::Snapshot;
use policy::identity::Identities;

use crate::agent::ipam::Ipam;
use crate::sources::assemble::Assembler;
use crate::sources::cluster_ips::Chosen;
use crate::sources::directory::Directory;
use crate::sources::store::Store;
use crate::sources::{Problem, Registration, Surrounding, endpoints};

/// How long files may go on changing.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Before files that were being changed are looked at again.
const SETTLE: Duration = Duration::from_millis(100);
/// Addresses for pods that have none in their manifest: they need some to be told apart.
const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/64"];
/// The same for services.
const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

/// Reads a folder. The problems are those that an agent would report.
pub fn read(folder: &Path) -> anyhow::Result<(Snapshot, Vec<Problem>)> {
    crate::sources::readable(folder)?;
    let mut directory = Directory::new(folder.to_owned());
    let mut store = Store::recalling(Vec::new());
    let begin = Instant::now();
    loop {
        let scan = directory.scan(|_| false);
        scan.changed.into_iter().for_each(|(file, contents)| store.set_file(&file, contents));
        if !scan.unsettled || begin.elapsed() > SETTLE_MAX {
            break;
        }
        std::thread::sleep(SETTLE);
    }
    let nets = |list: [&str; 2]| list.iter().filter_map(|net| net.parse().ok()).collect::<Vec<IpNet>>();
    let around = Surrounding {
        node: "localhost".into(),
        pod_cidrs: nets(POD_CIDRS),
        service_cidrs: nets(SERVICE_CIDRS),
        cluster: "default".into(),
        first_revision: 1,
        ..Surrounding::default()
    };
    let mut assembler = Assembler::new(around, Identities::default(), Chosen::default());
    assembler.apply(store.settle());
    let mut ipam = Ipam::new(&nets(POD_CIDRS), &[])?;
    let pods = assembler.pods().iter().filter(|(_, pod)| !endpoints::is_host_network(pod));
    let attached = pods.zip(1..).map(|((key, _), number)| {
        let (namespace, pod) = key.split_once('/').unwrap_or(("default", key));
        let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
        let addresses = ipam.allocate()?;
        Ok((key.clone(), Registration { namespace, pod, endpoint: number, addresses, ready: true }))
    });
    let attached = attached.collect::<anyhow::Result<_>>()?;
    assembler.register(attached);
    assembler.assemble();
    Ok((assembler.snapshot().clone(), store.problems()))
}
