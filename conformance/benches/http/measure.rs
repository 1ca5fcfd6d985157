//! Rows, figures and the table they end in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    /// HTTP/1.1 with keep-alive and three policy rules: CPU of the proxy per request.
    H1,
    /// A new connection for each request.
    H1New,
    /// HTTP/2 on both sides.
    H2,
    /// Traffic that L4 policy allows, keep-alive: CPU of client and server per request, which bears all that
    /// the kernel does for their packets.
    L4,
    /// The same with a new connection per request.
    L4New,
    /// Resident memory of the proxy without traffic.
    Idle,
    /// The same with 1,000 idle connections.
    Idle1000,
}

impl Row {
    /// Every row, in the order they are run.
    pub(crate) const ALL: [Self; 7] =
        [Self::Idle, Self::Idle1000, Self::H1, Self::H1New, Self::H2, Self::L4, Self::L4New];

    /// Whether it is measured before there was any load, and once.
    pub(crate) fn is_memory(self) -> bool {
        matches!(self, Self::Idle | Self::Idle1000)
    }

    /// Its name in the table and for `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H1New => "h1-new",
            Self::H2 => "h2",
            Self::L4 => "l4",
            Self::L4New => "l4-new",
            Self::Idle => "rss-idle",
            Self::Idle1000 => "rss-1000",
        }
    }

    /// Unit of its figures.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Idle | Self::Idle1000 => "MB",
            _ => "us CPU/request",
        }
    }
}

/// CPU time of a process so far, in microseconds: scheduler run time of its threads.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).context("the process ended")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    }
    Ok(nanoseconds / 1000.0)
}

/// Resident memory of a process in MB.
pub(crate) fn rss_of(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process ended")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1024.0)
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Table {
    figures: BTreeMap<Row, Vec<(&'static str, Vec<f64>)>>,
}

impl Table {
    /// Adds a figure of one round.
    pub(crate) fn add(&mut self, row: Row, way: &'static str, figure: f64) {
        let ways = self.figures.entry(row).or_default();
        match ways.iter_mut().find(|(name, _)| *name == way) {
            Some((_, figures)) => figures.push(figure),
            None => ways.push((way, vec![figure])),
        }
    }

    /// A Markdown table: medians of the figures, and of the ratio that Heddle has to each peer in each round.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from(
            "| row | Heddle | peer | peer's figure | Heddle / peer (lowest to highest) |\n|---|---|---|---|---|\n",
        );
        for (row, ways) in &self.figures {
            let Some(((_, ours), peers)) = ways.split_first() else { continue };
            for (name, peer) in peers {
                let mut ratios: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| ours / peer).collect();
                ratios.sort_by(f64::total_cmp);
                let (Some(least), Some(most)) = (ratios.first(), ratios.last()) else { continue };
                let _ = writeln!(
                    text,
                    "| {} ({}) | {:.1} | {name} | {:.1} | {:.2} ({least:.2} to {most:.2}) |",
                    row.name(),
                    row.unit(),
                    median(ours),
                    median(peer),
                    median(&ratios)
                );
            }
        }
        text
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 if middle > 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted.get(middle).copied().unwrap_or(f64::NAN),
    }
}
