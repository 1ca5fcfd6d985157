//! What the CNI plugin and the agent say to each other: JSON bodies of `/v1/cni/*` on the agent's socket.
//!
//! Both sides use these types, so there is no second description to drift. Unknown fields are ignored: a
//! plugin of one version may talk to an agent of another during an upgrade.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Names one attachment of a container to the network; unique on the node (CNI spec 1.1, section 2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
}

/// `POST /v1/cni/allocate`: asks for an endpoint id and addresses. Asking twice for one attachment gives the
/// same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllocateRequest {
    #[serde(flatten)]
    pub attachment: Attachment,
    pub namespace: String,
    pub pod: String,
    /// Empty if the runtime does not say.
    #[serde(default)]
    pub uid: String,
    /// When the plugin stops waiting for the answer, milliseconds of CLOCK_MONOTONIC. An agent that comes to
    /// read the question later must not allocate: nobody would release it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_until_ms: Option<u64>,
}

/// Now, in milliseconds of CLOCK_MONOTONIC.
pub fn monotonic_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    // The clock exists on every Linux.
    now.map_or(0, |t| t.tv_sec().cast_unsigned() * 1000 + t.tv_nsec().cast_unsigned() / 1_000_000)
}

/// The answer to [`AllocateRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    pub endpoint_id: u32,
    /// At least one; at most one of each family.
    pub addresses: Vec<AllocatedAddress>,
    /// Name to give to the host's end of the veth pair (15 bytes at most).
    pub host_ifname: String,
    pub mtu: u32,
}

/// One address of a pod and the gateway it routes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatedAddress {
    pub ip: IpAddr,
    pub gateway: IpAddr,
}

/// `POST /v1/cni/ready`: the veth pair is up. The answer comes once the endpoint's policy is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyRequest {
    #[serde(flatten)]
    pub attachment: Attachment,
    pub host_ifindex: u32,
    /// Hardware address of the pod's end, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Cookie (SO_NETNS_COOKIE) of the pod's network namespace: tells whose sockets connect to services.
    #[serde(default)]
    pub netns_cookie: u64,
}

/// `POST /v1/cni/check`: the agent answers 2xx if it knows the attachment with just these values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckRequest {
    #[serde(flatten)]
    pub attachment: Attachment,
    pub host_ifindex: u32,
    pub addresses: Vec<IpAddr>,
}

/// `POST /v1/cni/gc`: everything but these attachments is to be released.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcRequest {
    pub valid: Vec<Attachment>,
}

/// The answer to [`GcRequest`]: host ends whose attachments were released; the plugin removes the devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcResponse {
    #[serde(default)]
    pub removed_host_ifnames: Vec<String>,
}

/// Body of every answer of the agent that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// One sentence naming object and remedy.
    pub error: String,
}
