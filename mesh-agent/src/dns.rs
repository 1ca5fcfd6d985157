//! `heddle dns`: the cluster's DNS server, run as a pod behind the Service kube-system/kube-dns.
//!
//! Answers for the services that the agent streams ([`state`]), from memory ([`zone`]); what is outside the
//! cluster's domain goes to upstream servers or nowhere. While the agent is away the last state serves on.

mod answer;
mod forward;
mod server;
pub mod state;
mod zone;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::api::client::Client;
use crate::cli::Global;
use forward::Forwarder;
use server::Server;
use state::DnsState;
use zone::{Domain, Zone};

/// Pause before the agent is asked again after its stream ended.
const AGENT_PAUSE: Duration = Duration::from_millis(500);

/// Serve the names of the cluster's services (runs as the pod behind kube-dns)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle dns                                            what `heddle run --run-pods` starts as a pod
  heddle dns --upstream 192.0.2.53 --upstream 9.9.9.9   other names go to these, in this order")]
pub struct Args {
    /// The domain that is ours.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: Domain,
    /// A server to ask for all other names: ADDRESS or ADDRESS:PORT. May be repeated; the next one is asked
    /// when one does not answer. Without any, such names are refused.
    #[arg(long, value_name = "SERVER")]
    upstream: Vec<Upstream>,
    /// UDP and TCP port, on every address.
    #[arg(long, default_value_t = 53)]
    port: u16,
}

/// Address of an upstream server; port 53 where none is given.
#[derive(Clone, Copy, Debug)]
struct Upstream(SocketAddr);

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        let address = address.or_else(|_| text.parse::<SocketAddr>());
        address.map(Upstream).map_err(|_| "not ADDRESS or ADDRESS:PORT".to_owned())
    }
}

impl Args {
    /// Serves until the process is ended.
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (sender, mut zone) = watch::channel(None);
            tokio::spawn(follow(Client::new(&global.instance), self.cluster_domain, sender));
            // Not listening yet is how the pod says that it is not ready.
            let first = zone.wait_for(Option::is_some).await.map(|_| ());
            first?;
            let forwarder = Forwarder::new(self.upstream.iter().map(|upstream| upstream.0).collect());
            let server = Arc::new(Server::new(zone, forwarder));
            server.serve(self.port).await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// Keeps the zone as the agent describes it. A stream that ends or makes no sense leaves the last zone.
async fn follow(agent: Client, domain: Domain, zone: watch::Sender<Option<Arc<Zone>>>) {
    let mut serial = 0u32;
    let mut told = false;
    loop {
        let outcome = agent
            .lines("/v1/dns", |line| match serde_json::from_str::<DnsState>(line) {
                Ok(state) => {
                    serial = serial.wrapping_add(1);
                    told = false;
                    info!(services = state.services.len(), serial, "names changed");
                    zone.send_replace(Some(Arc::new(Zone::new(&domain, &state, serial))));
                    true
                }
                Err(error) => {
                    warn!(%error, "the agent's answer makes no sense");
                    false
                }
            })
            .await;
        if !told {
            let error = outcome.err().map(|e| e.to_string()).unwrap_or_default();
            warn!(%error, "the agent is away; the last names stay");
            told = true;
        }
        tokio::time::sleep(AGENT_PAUSE).await;
    }
}
