//! Makes random policy cases from a seed: a small cluster, its policies and questions about flows, in the
//! format of `heddle policy test`. Knows nothing of what the answers are.

use serde_json::{Map, Value, json};

mod address;
mod cilium;
mod cluster;
mod hint;
mod http;
mod kubernetes;
mod peers;
mod ports;
mod queries;
mod rng;
mod selector;

use cluster::Cluster;
use rng::Rng;

/// What a file of cases is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    /// Everything on which Heddle and Cilium agree.
    Common,
    /// NetworkPolicies with an `ipBlock` over the addresses of pods.
    IpBlockOverPods,
    /// Rules that name ICMP type 0.
    IcmpTypeZero,
}

/// The `count` cases of `seed`, without verdicts. The same for ever.
pub(crate) fn cases(seed: u64, theme: Theme, count: usize) -> Vec<Value> {
    (0..count).map(|n| case(seed, n, theme)).collect()
}

fn case(seed: u64, n: usize, theme: Theme) -> Value {
    // Every case has its own sequence, so that one can be remade without those before it.
    let mut rng = Rng::new(seed << 32 | n as u64);
    let rng = &mut rng;
    let cluster = Cluster::random(rng, theme);
    let mut hints = Vec::new();
    let kubernetes = match theme {
        Theme::Common => 18,
        Theme::IpBlockOverPods => 80,
        Theme::IcmpTypeZero => 0,
    };
    let count = *rng.pick(&[0, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
    let mut policies = Vec::new();
    for p in 0..count {
        let name = format!("p{p}");
        policies.push(match rng.chance(kubernetes) {
            true => kubernetes::policy(rng, &cluster, &name, &mut hints),
            false => cilium::policy(rng, &cluster, &name, &mut hints),
        });
    }
    let asked = if policies.is_empty() { 2 } else { rng.between(7, 11) };
    let queries: Vec<Value> = (0..asked).map(|_| queries::query(rng, &cluster, &hints)).collect();
    let mut out = Map::new();
    out.insert("name".into(), json!(format!("{seed}-{n}")));
    cluster.write(&mut out);
    if !policies.is_empty() {
        out.insert("policies".into(), Value::Array(policies));
    }
    out.insert("queries".into(), Value::Array(queries));
    Value::Object(out)
}
