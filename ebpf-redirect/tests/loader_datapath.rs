//! The datapath in real network namespaces: a node and two pods. Root only; each test has namespaces, pins
//! and a thread of its own.
#![allow(missing_debug_implementations, unreachable_pub)]

#[path = "loader/net.rs"]
mod net;

#[path = "loader/maps.rs"]
mod maps;
#[path = "loader/redirect.rs"]
mod redirect;
#[path = "loader/restart.rs"]
mod restart;
