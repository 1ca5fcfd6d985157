//! ebpf-redirect
