//! The programs under real traffic: what a test run of one packet cannot show. Root only; namespaces, pins
//! and cgroup of each test are its own.
#![allow(missing_debug_implementations, unreachable_pub, dead_code)] // net is shared with loader_datapath

#[path = "loader/net.rs"]
mod net;

#[path = "traffic/raw.rs"]
mod raw;
#[path = "traffic/services.rs"]
mod services;
#[path = "traffic/steering.rs"]
mod steering;
