//! The tour: what is done, why, and what must come of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::node::Node;

/// How long an edited policy may take to be enforced before the tour calls it broken.
const CHANGE_MAX: Duration = Duration::from_secs(10);
const TOKEN: &str = "X-Token: shop";

/// A request from one pod, and what must come of it.
struct Visit {
    title: &'static str,
    why: &'static str,
    from: &'static str,
    curl: &'static [&'static str],
    /// HTTP status; 0 = no connection at all.
    want: u16,
    /// Part of the answer's body.
    contains: &'static str,
}

const VISITS: &[Visit] = &[
    Visit {
        title: "an allowed request",
        why: "policy `orders` lets web GET /orders with the shop's token; orders sees web's own address",
        from: "shop/web",
        curl: &["-H", TOKEN, "http://orders/orders/7"],
        want: 200,
        contains: "\"service\":\"orders\"",
    },
    Visit {
        title: "a denied method",
        why: "no rule allows POST",
        from: "shop/web",
        curl: &["-X", "POST", "-H", TOKEN, "http://orders/orders"],
        want: 403,
        contains: "Access denied",
    },
    Visit {
        title: "a denied path",
        why: "/admin matches no rule, and /orders/../admin is the same path after normalisation",
        from: "shop/web",
        curl: &["--path-as-is", "-H", TOKEN, "http://orders/orders/../admin"],
        want: 403,
        contains: "Access denied",
    },
    Visit {
        title: "a missing header",
        why: "the rule asks for X-Token: shop",
        from: "shop/web",
        curl: &["http://orders/orders/7"],
        want: 403,
        contains: "Access denied",
    },
    Visit {
        title: "layer 4 alone, allowed",
        why: "policy `payments` lets orders connect; this traffic never meets the proxy",
        from: "shop/orders",
        curl: &["http://payments/anything"],
        want: 200,
        contains: "\"service\":\"payments\"",
    },
    Visit {
        title: "a denial at layer 4",
        why: "web may not connect to payments: its packets are dropped in the kernel",
        from: "shop/web",
        curl: &["-m", "1", "http://payments/"],
        want: 0,
        contains: "",
    },
];

/// Walks the tour; the first step that differs from what it says ends it.
pub(crate) fn run(node: &Node) -> Result<()> {
    for visit in VISITS {
        node.check_interrupt()?;
        println!("\n--> {}\n    {}", visit.title, visit.why);
        println!("    {}$ curl {}", visit.from, visit.curl.join(" "));
        let (status, body) = curl(node, visit.from, visit.curl)?;
        println!("    {}", answer(status, &body));
        ensure!(status == visit.want, "{}: expected status {}, got {status}", visit.title, visit.want);
        ensure!(body.contains(visit.contains), "{}: expected {} in {body}", visit.title, visit.contains);
    }
    live_edit(node)?;
    let explain = ["policy", "explain", "--from", "shop/web", "--to", "shop/orders", "--port", "8080"];
    let request = ["--method", "DELETE", "--path", "/orders/7"];
    let why = "the same decide() and the same matchers as the datapath";
    show(node, "explain a denial", why, &[&explain[..], &request[..]].concat(), &["denied", "orders"])?;
    let flows = ["flows", "--verdict", "dropped", "--last", "5"];
    show(
        node,
        "the denials as flows",
        "policy, rule and reason of each",
        &flows,
        &["POLICY_DENIED", "HTTP_DENIED"],
    )?;
    show(node, "the node's status", "what runs, at which policy revision", &["status"], &["revision"])?;
    metrics(node)?;
    println!("\nThe tour is over: every step did what it says.");
    Ok(())
}

/// Changes the policy file and waits until the change is enforced on an open connection's next request.
fn live_edit(node: &Node) -> Result<()> {
    println!("\n--> edit the policy while the shop runs\n    policy.yaml: method GET becomes GET|DELETE");
    let text = std::fs::read_to_string(node.policy())?;
    ensure!(text.contains("method: GET"), "the policy has no method: GET to edit");
    let edited = node.policy().with_extension("new");
    std::fs::write(&edited, text.replace("method: GET", "method: GET|DELETE"))?;
    std::fs::rename(&edited, node.policy())?;
    let start = Instant::now();
    let request = ["-X", "DELETE", "-H", TOKEN, "http://orders/orders/7"];
    println!("    shop/web$ curl {}", request.join(" "));
    loop {
        node.check_interrupt()?;
        let (status, body) = curl(node, "shop/web", &request)?;
        if status == 200 {
            println!("    {}  (enforced within {} ms)", answer(status, &body), start.elapsed().as_millis());
            break;
        }
        ensure!(
            start.elapsed() < CHANGE_MAX,
            "the edited policy is not enforced after {CHANGE_MAX:?}: {status}"
        );
    }
    std::fs::write(&edited, text)?;
    std::fs::rename(&edited, node.policy())?;
    let start = Instant::now();
    while curl(node, "shop/web", &request)?.0 != 403 {
        node.check_interrupt()?;
        ensure!(start.elapsed() < CHANGE_MAX, "the restored policy is not enforced after {CHANGE_MAX:?}");
    }
    println!("    put back as it was: 403 again");
    Ok(())
}

/// Runs a `heddle` command, prints its output and checks that it says what it must.
fn show(node: &Node, title: &str, why: &str, words: &[&str], must_say: &[&str]) -> Result<()> {
    node.check_interrupt()?;
    println!("\n--> {title}\n    {why}\n    $ heddle {}", words.join(" "));
    let output = node.heddle(words).output().context("heddle")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        println!("    {line}");
    }
    for part in must_say {
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            text.to_lowercase().contains(&part.to_lowercase()),
            "{title}: {part} is not in the output\n{errors}"
        );
    }
    Ok(())
}

fn metrics(node: &Node) -> Result<()> {
    println!("\n--> metrics\n    what was dropped, by reason \n    $ curl http://127.0.0.1:15020/metrics");
    let output =
        node.inside("curl").args(["-s", "http://127.0.0.1:15020/metrics"]).output().context("curl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let drops: Vec<&str> =
        text.lines().filter(|line| line.starts_with("heddle_drops_total") && !line.ends_with(" 0")).collect();
    for line in &drops {
        println!("    {line}");
    }
    ensure!(
        drops.iter().any(|line| line.contains("POLICY_DENIED")),
        "no drop with reason POLICY_DENIED in the metrics"
    );
    Ok(())
}

/// Runs curl in a pod; gives status (0: no answer) and body.
fn curl(node: &Node, pod: &str, arguments: &[&str]) -> Result<(u16, String)> {
    let mut words = vec!["exec", pod, "--", "curl", "-s", "-m", "10", "-w", "\n%{http_code}"];
    words.extend(arguments);
    let output = node.heddle(&words).output().context("heddle exec")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some((body, status)) = text.rsplit_once('\n') else {
        bail!("curl did not run in {pod}: {}", String::from_utf8_lossy(&output.stderr));
    };
    Ok((status.trim().parse().context("curl printed no status")?, body.to_owned()))
}

fn answer(status: u16, body: &str) -> String {
    match status {
        0 => "no answer: the connection was never made".to_owned(),
        status => format!("{status}  {}", body.trim()),
    }
}
