//! How large a packet may be on its way out of the node.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;

use crate::node::Device;

/// What Ethernet carries; where no device says otherwise.
const MTU_DEFAULT: u32 = 1500;
/// Least that IPv6 asks for (RFC 8200, section 5).
const MTU_MIN: u32 = 1280;

/// The smallest MTU of these devices, in bytes.
pub(super) async fn mtu(devices: &[Device]) -> u32 {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else { return MTU_DEFAULT };
    let connection = tokio::spawn(connection);
    let mut smallest = None;
    for device in devices {
        let links: Vec<_> =
            handle.link().get().match_index(device.ifindex).execute().try_collect().await.unwrap_or_default();
        let mtus = links.iter().flat_map(|link| &link.attributes).filter_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        smallest = smallest.into_iter().chain(mtus).min();
    }
    connection.abort();
    smallest.unwrap_or(MTU_DEFAULT).max(MTU_MIN)
}
