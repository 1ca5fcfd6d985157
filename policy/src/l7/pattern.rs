//! Regular expressions that must match a whole value. What is a literal, a few literals or a literal and
//! then anything never meets the regex engine.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

/// Longest expression, in bytes.
const PATTERN_MAX: usize = 4096;
/// Largest compiled expression, in bytes.
const COMPILED_MAX: usize = 1 << 20;
/// Most literals that an expression is unfolded into.
const LITERALS_MAX: usize = 32;

/// One compiled expression.
#[derive(Debug)]
pub(super) enum Pattern {
    Any,
    /// One of these, exactly.
    Literals(Vec<Box<[u8]>>),
    /// This and then anything without a line end.
    Prefix(Box<[u8]>),
    Regex(Regex),
}

impl Pattern {
    /// Compiles an expression; without one everything matches.
    pub(super) fn new(text: Option<&str>) -> Result<Self, String> {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(Self::Any) };
        let regex = compile(text)?;
        // The parser's tree says what the expression means whatever way it was written (`a[.]b`, `P(OST|UT)`).
        let hir = regex_syntax::ParserBuilder::new().utf8(false).unicode(false).build().parse(text);
        Ok(hir.ok().and_then(|hir| simple(&hir)).unwrap_or(Self::Regex(regex)))
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        let value = value.as_bytes();
        match self {
            Self::Any => true,
            Self::Literals(literals) => literals.iter().any(|l| **l == *value),
            Self::Prefix(prefix) => value.strip_prefix(&**prefix).is_some_and(|rest| !rest.contains(&b'\n')),
            Self::Regex(regex) => regex.is_match(value),
        }
    }

    pub(super) fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }
}

/// Checks an expression as validation needs it; the error is for people.
///
/// # Errors
/// It is no expression, uses what cannot be matched in linear time, or is too large.
pub fn check(text: &str) -> Result<(), String> {
    compile(text).map(|_| ())
}

/// The expression bound to both ends. It is compiled alone first, so that `a)|(b` cannot leave its group.
fn compile(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN_MAX {
        return Err(format!("an expression of {} bytes, the most is {PATTERN_MAX}", text.len()));
    }
    // Bytes first: `\d` and `(?i)` then mean ASCII as in Envoy. What needs Unicode is compiled with it.
    let build = |text: &str, unicode: bool| {
        RegexBuilder::new(text).unicode(unicode).size_limit(COMPILED_MAX).dfa_size_limit(COMPILED_MAX).build()
    };
    let both = |text: &str| build(text, false).or_else(|_| build(text, true));
    both(text).map_err(|error| explain(text, &error))?;
    both(&format!(r"\A(?:{text})\z")).map_err(|error| explain(text, &error))
}

fn explain(text: &str, error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => {
            format!("{text:?} is too large an expression (over {COMPILED_MAX} bytes compiled)")
        }
        error => {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or("").trim_start_matches("error: ");
            format!("{text:?} is not a regular expression: {last}")
        }
    }
}

fn simple(hir: &Hir) -> Option<Pattern> {
    if let Some(literals) = literals(hir) {
        return Some(Pattern::Literals(literals.into_iter().map(Into::into).collect()));
    }
    if is_anything(hir) {
        return Some(Pattern::Prefix(Box::default()));
    }
    if let HirKind::Concat(parts) = hir.kind()
        && let Some((last, front)) = parts.split_last()
        && is_anything(last)
    {
        let mut prefix = Vec::new();
        for part in front {
            let one = literals(part)?;
            let [one] = one.as_slice() else { return None };
            prefix.extend_from_slice(one);
        }
        return Some(Pattern::Prefix(prefix.into()));
    }
    None
}

/// `.*`: any number of anything but a line end.
fn is_anything(hir: &Hir) -> bool {
    let HirKind::Repetition(repetition) = without_groups(hir).kind() else { return false };
    let HirKind::Class(class) = without_groups(&repetition.sub).kind() else { return false };
    let all_but_line_end = match class {
        Class::Bytes(class) => {
            let ranges: Vec<(u8, u8)> = class.ranges().iter().map(|r| (r.start(), r.end())).collect();
            ranges == [(0, b'\n' - 1), (b'\n' + 1, 255)]
        }
        Class::Unicode(_) => false,
    };
    repetition.min == 0 && repetition.max.is_none() && all_but_line_end
}

fn without_groups(hir: &Hir) -> &Hir {
    match hir.kind() {
        HirKind::Capture(capture) => without_groups(&capture.sub),
        _ => hir,
    }
}

/// All that an expression matches, if that is a short list.
fn literals(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![Vec::new()]),
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Capture(capture) => literals(&capture.sub),
        HirKind::Class(Class::Bytes(class)) => {
            let bytes = class.ranges().iter().flat_map(|r| r.start()..=r.end());
            let list: Vec<_> = bytes.take(LITERALS_MAX + 1).map(|b| vec![b]).collect();
            (list.len() <= LITERALS_MAX).then_some(list)
        }
        HirKind::Repetition(r) if r.min == 0 && r.max == Some(1) => {
            let mut list = literals(&r.sub)?;
            list.push(Vec::new());
            Some(list)
        }
        HirKind::Alternation(parts) => {
            let mut list = Vec::new();
            for part in parts {
                list.extend(literals(part)?);
                if list.len() > LITERALS_MAX {
                    return None;
                }
            }
            Some(list)
        }
        HirKind::Concat(parts) => {
            let mut list = vec![Vec::new()];
            for part in parts {
                let tails = literals(part)?;
                if list.len() * tails.len() > LITERALS_MAX {
                    return None;
                }
                let join = |head: &Vec<u8>| {
                    tails.iter().map(|tail| [head.as_slice(), tail].concat()).collect::<Vec<_>>()
                };
                list = list.iter().flat_map(join).collect();
            }
            Some(list)
        }
        _ => None,
    }
}
