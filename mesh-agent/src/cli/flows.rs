//! `heddle flows`: what happened to connections and requests.

use std::io::Write;
use std::process::ExitCode;

use super::Global;
use super::show::{Output, OutputArgs, print_json, runtime};
use super::table::printable;
use crate::api::client::Client;
use crate::flows::filter::PartyFilter;
use crate::flows::{Flow, FlowVerdict, Party};

/// Show connections and requests: who, to whom, what became of them, and why.
///
/// The agent keeps the last 8192. `-o json` prints `{"flows": [...]}`, with --follow one flow a line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  heddle flows                                     the last 20
  heddle flows -f --verdict dropped                what is being denied, as it happens
  heddle flows --from shop/web --to shop/api       between two pods
  heddle flows --to world --last 100 -o json       as JSON
  heddle flows --from app=web --to 10.0.0.0/8      by label and by address")]
pub struct Args {
    /// Go on with those to come.
    #[arg(short, long)]
    follow: bool,
    /// How many of the past ones.
    #[arg(long, default_value_t = 20, value_name = "N")]
    last: usize,
    /// Only those of which this became.
    #[arg(long, value_enum, ignore_case = true)]
    verdict: Option<FlowVerdict>,
    /// Who began: namespace/pod, namespace/, address, CIDR, key=value, identity:NUMBER, or an entity.
    #[arg(long)]
    from: Option<String>,
    /// To whom: the same, or namespace/service.
    #[arg(long)]
    to: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        for end in [&self.from, &self.to].into_iter().flatten() {
            end.parse::<PartyFilter>().map_err(anyhow::Error::msg)?;
        }
        let path = self.path();
        let json = self.output.output == Output::Json;
        let print = |line: &str| {
            let text = if json { Some(line.to_owned()) } else { describe(line) };
            // A reader that has gone (`| head`) ends it.
            text.is_none_or(|text| writeln!(std::io::stdout(), "{text}").is_ok())
        };
        let client = Client::new(&global.instance);
        if json && !self.follow {
            let mut flows: Vec<serde_json::Value> = Vec::new();
            let take = |line: &str| {
                flows.extend(serde_json::from_str(line).ok());
                true
            };
            runtime()?.block_on(client.lines(&path, take))?;
            print_json(&serde_json::json!({ "flows": flows }))?;
            return Ok(ExitCode::SUCCESS);
        }
        runtime()?.block_on(client.lines(&path, print))?;
        Ok(ExitCode::SUCCESS)
    }

    fn path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("last", &self.last.to_string());
        query.append_pair("follow", if self.follow { "true" } else { "false" });
        if let Some(verdict) = self.verdict {
            query.append_pair("verdict", verdict.name());
        }
        for (name, value) in [("from", &self.from), ("to", &self.to)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        format!("/v1/flows?{}", query.finish())
    }
}

/// A line of the stream for people.
fn describe(line: &str) -> Option<String> {
    if let Ok(flow) = serde_json::from_str::<Flow>(line) {
        return Some(flow_text(&flow));
    }
    let lost = serde_json::from_str::<serde_json::Value>(line).ok()?.get("lost")?.as_u64()?;
    Some(format!("... {lost} flows lost: this terminal was too slow"))
}

/// `12:00:00.123 DROPPED TCP shop/web:40000 -> shop/api:80 (egress) POLICY_DENIED ...`.
pub fn flow_text(flow: &Flow) -> String {
    let time = flow.time.split_once('T').map_or(flow.time.as_str(), |(_, time)| time);
    let time = time.get(..12).unwrap_or(time);
    let mut text = format!(
        "{time} {:10} {} {} -> {}",
        flow.verdict.name(),
        flow.protocol,
        party_text(&flow.source),
        party_text(&flow.destination)
    );
    if let Some(icmp) = flow.icmp {
        text += &format!(" type {} code {}", icmp.kind, icmp.code);
    }
    if let Some(l7) = &flow.l7 {
        text += &format!(" {} {} {}{}", l7.protocol, l7.method, l7.host, l7.path);
        if l7.status != 0 {
            text += &format!(" -> {}", l7.status);
        }
    }
    text += &format!(" ({})", flow.direction);
    if !flow.reason.is_empty() {
        text += &format!(" {}", flow.reason);
    }
    if let Some(policy) = &flow.policy {
        text += &format!(" by {policy}");
    }
    if flow.refused {
        text += " (this policy was refused and denies its subjects)";
    }
    text += &default_deny(flow);
    if !flow.detail.is_empty() {
        text += &format!(": {}", flow.detail);
    }
    printable(&text)
}

/// `: default deny by POLICY (and N more)`.
fn default_deny(flow: &Flow) -> String {
    let Some((first, others)) = flow.default_deny.split_first() else { return String::new() };
    match others.len() + flow.default_deny_more as usize {
        0 => format!(": default deny by {first}"),
        more => format!(": default deny by {first} (and {more} more)"),
    }
}

fn party_text(party: &Party) -> String {
    let address = party.ip.map(|ip| ip.to_string()).unwrap_or_default();
    let reserved = || party.labels.iter().find_map(|label| label.strip_prefix("reserved:"));
    let name = if !party.service.is_empty() && !party.name.is_empty() {
        format!("{}[{}/{}]", party.service, party.namespace, party.name)
    } else if !party.service.is_empty() {
        party.service.clone()
    } else if !party.name.is_empty() {
        format!("{}/{}", party.namespace, party.name)
    } else {
        match reserved() {
            Some(name) => format!("{name}[{address}]"),
            None if address.contains(':') => format!("[{address}]"),
            None => address,
        }
    };
    if party.port == 0 { name } else { format!("{name}:{}", party.port) }
}

#[cfg(test)]
mod tests;
