//! Conditions on headers.

use super::{HeaderAction, HeaderRule, MismatchAction, RequestHead};

impl HeaderRule {
    /// Whether the request has the header and, if a value is named, that value. Several headers of one name
    /// are one value joined by commas (RFC 9110, section 5.3), as Envoy reads them: a second copy of a
    /// header can make a match fail, but never succeed. `host` is the host that the request is for.
    pub(super) fn holds(&self, request: &RequestHead<'_>) -> bool {
        if self.name == "host" {
            return match &self.value {
                None => !request.host.is_empty(),
                Some(value) => value == request.host,
            };
        }
        let Some(value) = &self.value else {
            let mut present = false;
            request.headers.each(&self.name, &mut |_| {
                present = true;
                false
            });
            return present;
        };
        let mut rest = Some(value.as_bytes());
        let mut count = 0;
        request.headers.each(&self.name, &mut |part| {
            rest = rest.and_then(|rest| {
                let rest = if count == 0 { rest } else { rest.strip_prefix(b",")? };
                rest.strip_prefix(part)
            });
            count += 1;
            rest.is_some()
        });
        count > 0 && rest.is_some_and(<[u8]>::is_empty)
    }

    /// Whether a request without this header or value fails the whole rule.
    pub(super) fn is_required(&self) -> bool {
        self.mismatch == MismatchAction::Fail
    }

    /// What to do with a request for which [`holds`](Self::holds) is false.
    pub(super) fn action(&self, request: &RequestHead<'_>) -> Option<HeaderAction> {
        let name = self.name.clone();
        let value = self.value.clone().unwrap_or_default();
        match self.mismatch {
            MismatchAction::Fail => None,
            MismatchAction::Log => Some(HeaderAction::Log { name }),
            MismatchAction::Add => Some(HeaderAction::Add { name, value }),
            MismatchAction::Replace => Some(HeaderAction::Replace { name, value }),
            MismatchAction::Delete => {
                let present = Self { value: None, ..self.clone() };
                present.holds(request).then_some(HeaderAction::Delete { name })
            }
        }
    }
}
