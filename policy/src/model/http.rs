//! `rules.http`: header strings, mismatch actions, regular expressions that compile within limits.

use super::raw::{RawHeaderMatch, RawHttp, RawKafka};
use super::refusal::Fault;
use crate::l7::{HeaderRule, HttpRule, MismatchAction, check_pattern};

/// Most elements of one `rules.http`.
const RULES_MAX: usize = 1024;
/// Most header conditions of one element.
const HEADERS_MAX: usize = 64;
/// Longest header value that a rule may name, in bytes.
const VALUE_MAX: usize = 4096;

pub(super) fn read(
    rules: &[RawHttp],
    path: &str,
    pending: &mut Option<Fault>,
) -> Result<Vec<HttpRule>, Fault> {
    if rules.len() > RULES_MAX {
        return Err(Fault::new(path, format!("{} rules, the most is {RULES_MAX}", rules.len())));
    }
    let rules = rules.iter().enumerate();
    rules.map(|(i, rule)| read_rule(rule, &format!("{path}[{i}]"), pending)).collect()
}

fn read_rule(raw: &RawHttp, path: &str, pending: &mut Option<Fault>) -> Result<HttpRule, Fault> {
    let pattern = |text: &Option<String>, field: &str| -> Result<Option<String>, Fault> {
        // An empty expression means any, as if it were left out.
        let Some(text) = text.as_ref().filter(|t| !t.is_empty()) else { return Ok(None) };
        check_pattern(text).map_err(|reason| Fault::new(format!("{path}.{field}"), reason))?;
        Ok(Some(text.clone()))
    };
    let count = raw.headers.len() + raw.header_matches.len();
    if count > HEADERS_MAX {
        let reason = format!("{count} conditions on headers, the most is {HEADERS_MAX}");
        return Err(Fault::new(format!("{path}.headers"), reason));
    }
    let mut headers = Vec::new();
    for (i, text) in raw.headers.iter().enumerate() {
        headers.push(read_header(text, &format!("{path}.headers[{i}]"))?);
    }
    for (i, m) in raw.header_matches.iter().enumerate() {
        headers.push(read_match(m, &format!("{path}.headerMatches[{i}]"), pending)?);
    }
    Ok(HttpRule {
        method: pattern(&raw.method, "method")?,
        path: pattern(&raw.path, "path")?,
        host: pattern(&raw.host, "host")?,
        headers,
    })
}

/// `Name` or `Name: value`, split at the first space.
fn read_header(text: &str, path: &str) -> Result<HeaderRule, Fault> {
    let (name, value) = match text.split_once(' ') {
        Some((name, value)) => (name.trim_end_matches(':'), Some(value.to_owned())),
        None => (text, None),
    };
    if value.is_none() && name.contains(':') {
        let reason = format!("{text:?}: write \"Name: value\" with a space, or \"Name\" alone");
        return Err(Fault::new(path, reason));
    }
    check_name(name, path)?;
    check_value(value.as_deref().unwrap_or(""), path)?;
    Ok(HeaderRule { name: name.to_ascii_lowercase(), value, mismatch: MismatchAction::Fail })
}

fn read_match(raw: &RawHeaderMatch, path: &str, pending: &mut Option<Fault>) -> Result<HeaderRule, Fault> {
    let mismatch = match raw.mismatch.as_deref() {
        None | Some("") => MismatchAction::Fail,
        Some("LOG") => MismatchAction::Log,
        Some("ADD") => MismatchAction::Add,
        Some("DELETE") => MismatchAction::Delete,
        Some("REPLACE") => MismatchAction::Replace,
        Some(other) => {
            let reason = format!("{other:?} is not one of LOG, ADD, DELETE, REPLACE");
            return Err(Fault::new(format!("{path}.mismatch"), reason));
        }
    };
    check_name(&raw.name, &format!("{path}.name"))?;
    check_value(raw.value.as_deref().unwrap_or(""), &format!("{path}.value"))?;
    if let Some(secret) = &raw.secret {
        let at = format!("{path}.secret");
        if secret.name.is_empty() {
            return Err(Fault::new(format!("{at}.name"), "must not be empty"));
        }
        pending.get_or_insert(Fault::not_enforced(at));
    }
    // An empty value matches any, as in Envoy.
    let value = raw.value.clone().filter(|v| !v.is_empty());
    let writes = matches!(mismatch, MismatchAction::Add | MismatchAction::Replace);
    if writes && value.is_none() && raw.secret.is_none() {
        let reason = "ADD and REPLACE need a value to write";
        return Err(Fault::new(format!("{path}.value"), reason));
    }
    Ok(HeaderRule { name: raw.name.to_ascii_lowercase(), value, mismatch })
}

/// A token as of RFC 9110, section 5.6.2.
fn check_name(name: &str, path: &str) -> Result<(), Fault> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.is_empty() && name.len() <= 256 && name.bytes().all(token) {
        return Ok(());
    }
    Err(Fault::new(path, format!("{name:?} is not a header name")))
}

fn check_value(value: &str, path: &str) -> Result<(), Fault> {
    if value.len() > VALUE_MAX {
        return Err(Fault::new(path, format!("a header value of over {VALUE_MAX} bytes")));
    }
    if value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
        return Err(Fault::new(path, "a header value with a control character"));
    }
    Ok(())
}

/// Checks an element of `rules.kafka`.
pub(super) fn check_kafka(raw: &RawKafka, path: &str) -> Result<(), Fault> {
    if raw.role.is_some() && raw.api_key.is_some() {
        return Err(Fault::new(format!("{path}.role"), "not possible together with apiKey"));
    }
    if let Some(role) = raw.role.as_deref().filter(|r| !matches!(*r, "produce" | "consume")) {
        let reason = format!("{role:?} is not produce or consume");
        return Err(Fault::new(format!("{path}.role"), reason));
    }
    if let Some(version) = raw.api_version.as_deref().filter(|v| v.parse::<i16>().is_err()) {
        return Err(Fault::new(format!("{path}.apiVersion"), format!("{version:?} is not a version")));
    }
    let topic = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if let Some(name) = raw.topic.as_deref().filter(|t| t.len() > 255 || !t.bytes().all(topic)) {
        return Err(Fault::new(format!("{path}.topic"), format!("{name:?} is not a topic's name")));
    }
    Ok(())
}
