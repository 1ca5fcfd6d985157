//! What this program is when it is not the test: the `heddle` binary with a CNI plugin, and workloads.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::world;

#[derive(Parser)]
struct Heddle {
    #[arg(long)]
    instance: Option<String>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    Cni,
    PodExec(launcher::exec::PodExec),
    /// Answers HTTP requests: 200 while the file exists, 500 without it.
    Serve {
        port: u16,
        file: PathBuf,
    },
    /// Starts a launcher with one pod and dies without a word.
    Crash {
        folder: PathBuf,
    },
}

/// Plays a role if the command line names one.
pub(crate) fn play() -> Option<ExitCode> {
    let first = std::env::args().nth(1)?;
    if !["--instance", "cni", "pod-exec", "serve", "crash"].contains(&first.as_str()) {
        return None;
    }
    let heddle = Heddle::parse();
    Some(match heddle.role {
        Role::Cni => cni(&heddle.instance.unwrap_or_default()),
        Role::PodExec(exec) => match exec.run() {
            Ok(code) => ExitCode::from(code as u8),
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        Role::Serve { port, file } => serve(port, &file),
        Role::Crash { folder } => crate::recovery::crash(&folder),
    })
}

fn serve(port: u16, file: &Path) -> ExitCode {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("listen");
    println!("listening");
    loop {
        let (mut stream, peer) = listener.accept().expect("accept");
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).unwrap_or(0);
        let request = String::from_utf8_lossy(&buffer[..n]).into_owned();
        println!("{peer} {}", request.lines().next().unwrap_or_default());
        let status = if file.exists() { "200 OK" } else { "500 No" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}

/// A plugin for one node: a veth pair, an address of 10.99.0.0/24, a note of each command.
fn cni(instance: &str) -> ExitCode {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let dir = world::plugin_folder(instance);
    let mut config = String::new();
    std::io::stdin().read_to_string(&mut config).expect("a configuration");
    let (command, id) = (variable("CNI_COMMAND"), variable("CNI_CONTAINERID"));
    world::append(&dir.join("commands"), &format!("{command} {id} {} {config}\n", variable("CNI_ARGS")));
    if command != "ADD" {
        if let (false, Some(netns)) = (id.is_empty(), Path::new(&variable("CNI_NETNS")).file_name()) {
            let _ = std::process::Command::new("ip")
                .args(["-n", &netns.to_string_lossy(), "link", "del", "eth0"])
                .output();
        }
        return ExitCode::SUCCESS;
    }
    if dir.join("fail").exists() {
        println!(r#"{{"cniVersion": "1.1.0", "code": 11, "msg": "not yet", "details": "asked to fail"}}"#);
        return ExitCode::FAILURE;
    }
    let number = (1..250).find(|n| std::fs::create_dir(dir.join(format!("ip-{n}"))).is_ok()).expect("free");
    let netns = variable("CNI_NETNS");
    let name = Path::new(&netns).file_name().expect("a name").to_string_lossy().into_owned();
    let address = format!("10.99.0.{number}");
    let host = format!("lt{}", &id[..8]);
    world::ip(&format!("link add {host} type veth peer name eth0 netns {name}"));
    world::ip(&format!("link set {host} up"));
    world::ip(&format!("route add {address}/32 dev {host} src 10.99.0.254"));
    for command in [
        "link set lo up".to_owned(),
        format!("addr add {address}/32 dev eth0"),
        "link set eth0 up".to_owned(),
        "route add default dev eth0 scope link".to_owned(),
    ] {
        world::ip(&format!("-n {name} {command}"));
    }
    println!(r#"{{"cniVersion": "1.1.0", "ips": [{{"interface": 1, "address": "{address}/32"}}]}}"#);
    ExitCode::SUCCESS
}
