//! The rule language as it is compiled: every kind of policy object becomes a list of [`Rule`].

/// One rule of a policy object (an element of `specs`), validated.
#[derive(Clone, Debug, Default)]
pub struct Rule {}
