//! The peers of the comparison and their configuration: one worker, no access log, the same three rules.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use conformance::netns::Netns;

/// A reverse proxy on the address of a node, in front of a server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// HTTP/1.1 with the policy.
    pub(crate) h1_port: u16,
    /// HTTP/2 with prior knowledge, to an HTTP/2 server, with the policy.
    pub(crate) h2_port: u16,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Peer {
    /// Envoy, with its RBAC filter.
    pub(crate) fn envoy(folder: &Path, program: PathBuf, server: Ipv4Addr) -> Result<Self> {
        let (h1_port, h2_port) = (8100, 8102);
        let config = folder.join("envoy.yaml");
        let text = format!(
            "static_resources:\n  listeners:\n{}{}  clusters:\n{}{}",
            envoy_listener("h1", h1_port, "HTTP1"),
            envoy_listener("h2", h2_port, "HTTP2"),
            envoy_cluster("h1", server, 8080, ""),
            envoy_cluster("h2", server, 8082, ENVOY_H2_UPSTREAM),
        );
        std::fs::write(&config, text)?;
        let arguments =
            ["-c", &config.to_string_lossy(), "--concurrency", "1", "-l", "error", "--disable-hot-restart"];
        let arguments = arguments.map(str::to_owned).to_vec();
        Ok(Self { name: "Envoy", h1_port, h2_port, program, arguments })
    }

    /// HAProxy, with ACLs.
    pub(crate) fn haproxy(folder: &Path, server: Ipv4Addr) -> Result<Self> {
        let (h1_port, h2_port) = (8110, 8112);
        let config = folder.join("haproxy.cfg");
        let frontend = |name: &str, port: u16, option: &str| {
            format!(
                "frontend {name}\n  bind :{port} {option} backlog 4096\n  acl isget method GET\n  \
                 acl pub path_reg ^/public/.*$\n  acl sub path_reg ^/submit$\n  acl put method POST PUT\n  \
                 acl tok req.hdr(X-Token) -m reg ^[0-9]+$\n  http-request allow if isget pub\n  \
                 http-request allow if put sub\n  http-request allow if tok\n  http-request deny\n  \
                 default_backend {name}\n"
            )
        };
        let text = format!(
            "global\n  nbthread 1\n  maxconn 9000\n  tune.h2.max-concurrent-streams 1024\ndefaults\n  mode http\n  \
             timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  http-reuse always\n{}{}backend h1\n  \
             server u {server}:8080\nbackend h2\n  server u {server}:8082 proto h2\n",
            frontend("h1", h1_port, ""),
            frontend("h2", h2_port, "proto h2"),
        );
        std::fs::write(&config, text)?;
        let arguments = vec!["-db".to_owned(), "-f".to_owned(), config.to_string_lossy().into_owned()];
        Ok(Self { name: "HAProxy", h1_port, h2_port, program: "haproxy".into(), arguments })
    }

    /// Starts it inside namespace `node`, pinned to one core.
    pub(crate) fn start(&self, node: &Netns, core: usize) -> Result<std::process::Child> {
        let mut command = node.command("taskset");
        command.args(["-c", &core.to_string()]).arg(&self.program).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("start {}", self.name))
    }
}

/// Where Envoy is: in the path, or in the Python environment that `cargo xtask bench` made.
pub(crate) fn find_envoy() -> Option<PathBuf> {
    let given = std::env::var_os("HEDDLE_BENCH_ENVOY").map(PathBuf::from);
    let works = |path: &PathBuf| {
        Command::new(path)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    given.into_iter().chain([PathBuf::from("envoy")]).find(works)
}

const TYPE: &str = "type.googleapis.com/envoy.extensions";
const ENVOY_H2_UPSTREAM: &str = r#"
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }"#;

fn envoy_listener(name: &str, port: u16, codec: &str) -> String {
    format!(
        r#"  - name: {name}
    address: {{ socket_address: {{ address: 0.0.0.0, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          codec_type: {codec}
          route_config:
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: {name}, timeout: 0s }} }} ] }}
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": {TYPE}.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies:
                  public:
                    principals: [ {{ any: true }} ]
                    permissions:
                    - and_rules:
                        rules:
                        - header: {{ name: ":method", string_match: {{ exact: GET }} }}
                        - url_path: {{ path: {{ safe_regex: {{ regex: "/public/.*" }} }} }}
                  submit:
                    principals: [ {{ any: true }} ]
                    permissions:
                    - and_rules:
                        rules:
                        - header: {{ name: ":method", string_match: {{ safe_regex: {{ regex: "P(OST|UT)" }} }} }}
                        - url_path: {{ path: {{ safe_regex: {{ regex: "/submit" }} }} }}
                  token:
                    principals: [ {{ any: true }} ]
                    permissions:
                    - header: {{ name: x-token, string_match: {{ safe_regex: {{ regex: "[0-9]+" }} }} }}
          - name: envoy.filters.http.router
            typed_config:
              "@type": {TYPE}.filters.http.router.v3.Router
"#
    )
}

fn envoy_cluster(name: &str, server: Ipv4Addr, port: u16, extra: &str) -> String {
    format!(
        r#"  - name: {name}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{ thresholds: [ {{ max_connections: 9000, max_requests: 9000, max_pending_requests: 9000 }} ] }}{extra}
    load_assignment:
      cluster_name: {name}
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {server}, port_value: {port} }} }} }} }} ] }} ]
"#
    )
}
