//! The whole proxy over plain loopback sockets, with a kernel, an agent and upstreams of the test's own.
//! What needs eBPF or transparent sockets is tested elsewhere, through the binary.

mod agent;
mod config;
mod harness;
mod hostile;
mod http1;
mod http2;
mod streams;
mod tcp;
mod upgrade;
mod upstream;
