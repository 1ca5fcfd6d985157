//! Why a request was denied: the rule that came nearest, and what of it failed.

use super::matcher::Compiled;
use super::{L7Verdict, RequestHead};

/// Most rules that are compared for the message, so that denials cost no more than requests that pass.
const COMPARED_MAX: usize = 64;
/// Longest value of a request that a message quotes, in characters.
const QUOTE_MAX: usize = 120;

pub(super) fn deny(rules: &[Compiled], request: &RequestHead<'_>) -> L7Verdict {
    let mut best: Option<(usize, &Compiled)> = None;
    for rule in rules.iter().take(COMPARED_MAX) {
        let score = score(rule, request);
        if best.is_none_or(|(top, _)| score > top) {
            best = Some((score, rule));
        }
    }
    match best {
        Some((_, rule)) => L7Verdict::Deny { nearest: rule.rule, why: why(rule, request) },
        None => L7Verdict::Deny { nearest: 0, why: "no rule".to_owned() },
    }
}

/// What holds, the path weighing most: people think of an endpoint first and of its conditions second.
fn score(rule: &Compiled, request: &RequestHead<'_>) -> usize {
    let headers = rule.source.headers.iter().filter(|h| h.is_required());
    let (held, all) = headers.fold((0, 0), |(held, all), h| (held + usize::from(h.holds(request)), all + 1));
    usize::from(rule.path.matches(request.path)) * 1000
        + usize::from(rule.host.matches(request.host)) * 400
        + usize::from(rule.method.matches(request.method)) * 400
        + (100 * held).checked_div(all).unwrap_or(100)
}

fn why(rule: &Compiled, request: &RequestHead<'_>) -> String {
    let fields = [
        ("method", &rule.method, request.method, &rule.source.method),
        ("path", &rule.path, request.path, &rule.source.path),
        ("host", &rule.host, request.host, &rule.source.host),
    ];
    let mut parts: Vec<String> = fields
        .into_iter()
        .filter(|(_, pattern, value, _)| !pattern.matches(value))
        .map(|(name, _, value, text)| {
            let text = text.as_deref().unwrap_or("");
            format!("{name} {:?} does not match {text:?}", quote(value))
        })
        .collect();
    for header in rule.source.headers.iter().filter(|h| h.is_required() && !h.holds(request)) {
        // The value that a rule wants may be a secret of sorts: it stays out of messages.
        let present = super::HeaderRule { value: None, ..header.clone() }.holds(request);
        parts.push(match (&header.value, present) {
            (Some(_), true) => format!("header {:?} has another value", header.name),
            _ => format!("header {:?} is missing", header.name),
        });
    }
    parts.dedup();
    parts.join(", ")
}

fn quote(value: &str) -> String {
    match value.char_indices().nth(QUOTE_MAX) {
        Some((at, _)) => format!("{}...", &value[..at]),
        None => value.to_owned(),
    }
}
