//! `cargo xtask bench http`: Heddle through its real path (eBPF redirect, policy, access records and metrics on)
//! beside Envoy and HAProxy in one run. The figure is CPU time of the proxy process per request, which stays
//! meaningful on a small machine; proxy on one core, load and servers on the other. Quote ratios of one run.

#[path = "http/load.rs"]
mod load;
#[path = "http/measure.rs"]
mod measure;
#[path = "http/peers.rs"]
mod peers;
#[path = "http/topology.rs"]
mod topology;

use anyhow::{Context, Result};

use measure::{Row, Table};
use topology::Bench;

/// What to run; from `--rounds N --seconds S --only ROW`.
#[derive(Debug)]
struct Settings {
    rounds: usize,
    seconds: f32,
    only: Option<String>,
}

impl Settings {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut settings = Self { rounds: 9, seconds: 1.5, only: None };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--rounds" => settings.rounds = value()?.parse().context("--rounds")?,
                "--seconds" => settings.seconds = value()?.parse().context("--seconds")?,
                "--only" => settings.only = Some(value()?),
                // What cargo bench adds, and the name of the benchmark.
                "--bench" | "http" => {}
                other => anyhow::bail!("unknown argument {other}: use --rounds N, --seconds S, --only ROW"),
            }
        }
        Ok(settings)
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1).peekable();
    if words.peek().is_some_and(|word| word == "load") {
        let plan = words.nth(1).context("load needs a plan")?;
        return load::run(&serde_json::from_str(&plan)?);
    }
    let settings = Settings::parse(words)?;
    if !conformance::host::privileged("bench http") {
        return Ok(());
    }
    let bench = Bench::start()?;
    let mut table = Table::default();
    for round in 1..=settings.rounds {
        for row in Row::ALL {
            let is_wanted = settings.only.as_ref().is_none_or(|only| only == row.name());
            if !is_wanted || (row.is_memory() && round > 1) {
                continue;
            }
            for way in bench.ways(row) {
                let figure = bench.measure(row, way, settings.seconds)?;
                println!(
                    "round {round}: {:<10} {:<12} {figure:8.1} {}",
                    row.name(),
                    way.name(&bench),
                    row.unit()
                );
                table.add(row, way.name(&bench), figure);
            }
        }
    }
    println!("\n{}", table.render());
    println!(
        "medians of {} rounds of {} s; 64 connections (-new: 16, h2: 8 x 16 streams)",
        settings.rounds, settings.seconds
    );
    println!("{}", bench.records()?);
    Ok(())
}
