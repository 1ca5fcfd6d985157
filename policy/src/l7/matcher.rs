//! The union of the rule sets of one peer and port. Rules are found by their path: exact paths in a map,
//! prefixes by length, the rest in one regex set, so that a request meets the rules that may match it.

use std::collections::{BTreeMap, HashMap};

use regex::bytes::{RegexSet, RegexSetBuilder};

use super::pattern::Pattern;
use super::{HeaderAction, HttpRule, L7Error, L7RuleSet, L7Verdict, RequestHead};

/// From this many regular expressions of paths on, they are matched as one set.
const SET_FROM: usize = 4;
/// Largest compiled set, in bytes; above it expressions are tried one by one.
const SET_MAX: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Matcher {
    pub(super) rules: Vec<Compiled>,
    /// The first rule that lets everything pass.
    everything: Option<u32>,
    /// Some rule changes requests: then all that match are applied, not the first alone.
    has_actions: bool,
    paths: Paths,
}

/// One element of `rules.http`.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) rule: u32,
    pub(super) method: Pattern,
    pub(super) path: Pattern,
    pub(super) host: Pattern,
    pub(super) source: HttpRule,
}

/// Indices into `rules` by some text.
type ByText = HashMap<Box<[u8]>, Vec<u32>>;

/// Indices into `rules` by path.
#[derive(Debug, Default)]
struct Paths {
    exact: ByText,
    /// Lengths of prefixes, ascending, each with its prefixes.
    prefixes: Vec<(usize, ByText)>,
    any: Vec<u32>,
    regexes: Vec<u32>,
    set: Option<RegexSet>,
}

impl Matcher {
    pub(super) fn new<'a>(sets: impl Iterator<Item = &'a L7RuleSet>) -> Result<Self, L7Error> {
        let mut matcher =
            Self { rules: Vec::new(), everything: None, has_actions: false, paths: Paths::default() };
        for set in sets {
            if set.http.is_empty() {
                matcher.everything.get_or_insert(set.rule);
            }
            for http in &set.http {
                let compiled = Compiled::new(set.rule, http)?;
                if compiled.is_unconditional() {
                    matcher.everything.get_or_insert(set.rule);
                }
                matcher.has_actions |= http.headers.iter().any(|h| !h.is_required());
                matcher.rules.push(compiled);
            }
        }
        matcher.paths = Paths::new(&matcher.rules);
        Ok(matcher)
    }

    pub(super) fn allows_all(&self) -> bool {
        self.everything.is_some() && !self.has_actions
    }

    pub(super) fn decide(&self, request: &RequestHead<'_>) -> L7Verdict {
        let mut allowed = self.everything;
        let mut actions = Vec::new();
        if allowed.is_none() || self.has_actions {
            self.paths.visit(&self.rules, request.path, &mut |rule| {
                if rule.holds(request) {
                    allowed.get_or_insert(rule.rule);
                    rule.collect(request, &mut actions);
                }
                // A rule that changes requests does so also behind another one that matches.
                allowed.is_none() || self.has_actions
            });
        }
        match allowed {
            Some(rule) => L7Verdict::Allow { rule, actions },
            None => super::nearest::deny(&self.rules, request),
        }
    }
}

impl Compiled {
    fn new(rule: u32, http: &HttpRule) -> Result<Self, L7Error> {
        let pattern = |field, text: &Option<String>| {
            Pattern::new(text.as_deref()).map_err(|reason| L7Error { rule, field, reason })
        };
        Ok(Self {
            rule,
            method: pattern("method", &http.method)?,
            path: pattern("path", &http.path)?,
            host: pattern("host", &http.host)?,
            source: http.clone(),
        })
    }

    fn is_unconditional(&self) -> bool {
        self.method.is_any() && self.path.is_any() && self.host.is_any() && self.source.headers.is_empty()
    }

    /// All but the path, which the index has seen to.
    fn holds(&self, request: &RequestHead<'_>) -> bool {
        self.method.matches(request.method)
            && self.host.matches(request.host)
            && self.source.headers.iter().all(|h| !h.is_required() || h.holds(request))
    }

    fn collect(&self, request: &RequestHead<'_>, actions: &mut Vec<HeaderAction>) {
        for header in &self.source.headers {
            if header.is_required() || header.holds(request) {
                continue;
            }
            if let Some(action) = header.action(request).filter(|a| !actions.contains(a)) {
                actions.push(action);
            }
        }
    }
}

impl Paths {
    fn new(rules: &[Compiled]) -> Self {
        let mut paths = Self::default();
        let mut prefixes: BTreeMap<usize, ByText> = BTreeMap::new();
        for (i, rule) in (0u32..).zip(rules) {
            match &rule.path {
                Pattern::Any => paths.any.push(i),
                Pattern::Literals(literals) => {
                    for literal in literals {
                        let list = paths.exact.entry(literal.clone()).or_default();
                        if list.last() != Some(&i) {
                            list.push(i);
                        }
                    }
                }
                Pattern::Prefix(prefix) => {
                    prefixes.entry(prefix.len()).or_default().entry(prefix.clone()).or_default().push(i);
                }
                Pattern::Regex(_) => paths.regexes.push(i),
            }
        }
        paths.prefixes = prefixes.into_iter().collect();
        if paths.regexes.len() >= SET_FROM {
            let texts = paths.regexes.iter().filter_map(|i| match &rules[*i as usize].path {
                Pattern::Regex(regex) => Some(regex.as_str()),
                _ => None,
            });
            let mut builder = RegexSetBuilder::new(texts);
            // Expressions that need Unicode do not compile this way; then all are tried one by one.
            paths.set = builder.unicode(false).size_limit(SET_MAX).dfa_size_limit(SET_MAX).build().ok();
        }
        paths
    }

    /// Calls `visit` with each rule whose path matches, until it returns false.
    fn visit(&self, rules: &[Compiled], path: &str, visit: &mut dyn FnMut(&Compiled) -> bool) {
        let mut each = |list: &[u32]| list.iter().all(|i| visit(&rules[*i as usize]));
        let bytes = path.as_bytes();
        if let Some(list) = self.exact.get(bytes)
            && !each(list)
        {
            return;
        }
        for (len, prefixes) in &self.prefixes {
            let Some(head) = bytes.get(..*len) else { break };
            let Some(list) = prefixes.get(head) else { continue };
            if !bytes[*len..].contains(&b'\n') && !each(list) {
                return;
            }
        }
        if !each(&self.any) {
            return;
        }
        match &self.set {
            Some(set) => {
                for at in &set.matches(bytes) {
                    if !each(&self.regexes[at..=at]) {
                        return;
                    }
                }
            }
            None => {
                for i in &self.regexes {
                    if rules[*i as usize].path.matches(path) && !each(std::slice::from_ref(i)) {
                        return;
                    }
                }
            }
        }
    }
}
