//! Sans-I/O parsers: bytes in, facts or refusals out.
//!
//! Owns what Heddle demands of a request before policy looks at it: strict HTTP/1 framing ([`http1`]),
//! one canonical form of path ([`path`]), host ([`authority`]) and head ([`head`]), telling protocols
//! apart ([`detect`]), and weighing HTTP/2 frames ([`h2`]). What is ambiguous is refused; what is canonicalised is forwarded as it was judged.
//! Knows nothing of policy, sockets or any async runtime.

pub mod authority;
pub mod detect;
pub mod h2;
pub mod head;
pub mod http1;
pub mod path;
