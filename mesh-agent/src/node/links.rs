//! Whose a host's end of a pod's veth is. The plugin writes it into the device's alias (`ip link` shows it),
//! so that a DEL without the pod's namespace, an agent without a record and a run that ends find the device.

use std::fmt::{self, Display};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::{NodeError, Plumbing};
use crate::cni::Attachment;
use crate::layout::Instance;

/// Longest alias that the kernel takes, bytes (IFALIASZ less the final zero).
const ALIAS_MAX: usize = 255;

/// The alias of a host's end: `heddle INSTANCE CONTAINER/IFNAME`. An instance's name has 40 bytes at most, a
/// container id 190, an interface's name 15, so it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkMark(String);

impl LinkMark {
    /// The mark of one attachment's device.
    pub fn new(instance: &Instance, attachment: &Attachment) -> Self {
        let Attachment { container_id, ifname } = attachment;
        let mark = format!("heddle {instance} {container_id}/{ifname}");
        debug_assert!(mark.len() <= ALIAS_MAX, "the parts have limits");
        Self(mark)
    }

    /// Whether it is a device of this instance.
    pub fn is_of(&self, instance: &Instance) -> bool {
        let mut words = self.0.split(' ');
        words.next() == Some("heddle") && words.next() == Some(&instance.to_string())
    }
}

impl Display for LinkMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A marked device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedLink {
    pub ifindex: u32,
    pub name: String,
    pub mark: LinkMark,
}

impl Plumbing {
    /// Writes whose device it is.
    pub async fn mark_link(&self, ifindex: u32, mark: &LinkMark) -> Result<(), NodeError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.attributes.push(LinkAttribute::IfAlias(mark.to_string()));
        let request = self.handle.link().set(message).execute();
        request.await.map_err(NodeError::netlink(format!("set the alias of device {ifindex}")))
    }

    /// Every device with a mark, of whatever instance.
    pub async fn marked_links(&self) -> Result<Vec<MarkedLink>, NodeError> {
        let links = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        let links = links.map_err(NodeError::netlink("read the devices"))?;
        Ok(links.iter().filter_map(marked).collect())
    }

    /// Removes a device, and with it its other end and its routes. One that is gone is no error.
    pub async fn remove_link(&self, name: &str) -> Result<(), NodeError> {
        let Ok(ifindex) = nix::net::if_::if_nametoindex(name) else { return Ok(()) };
        match self.handle.link().del(ifindex).execute().await {
            Err(_) if nix::net::if_::if_nametoindex(name).is_err() => Ok(()),
            outcome => outcome.map_err(NodeError::netlink(format!("remove device {name}"))),
        }
    }

    /// Removes the marked devices that `unwanted` says yes to; their names. The first failure comes after
    /// everything was tried.
    pub async fn remove_marked(
        &self,
        unwanted: impl Fn(&MarkedLink) -> bool,
    ) -> Result<Vec<String>, NodeError> {
        let (mut removed, mut outcome) = (Vec::new(), Ok(()));
        for link in self.marked_links().await?.into_iter().filter(unwanted) {
            match self.remove_link(&link.name).await {
                Ok(()) => removed.push(link.name),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.map(|()| removed)
    }
}

fn marked(link: &LinkMessage) -> Option<MarkedLink> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let alias = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.clone()),
        _ => None,
    })?;
    // Anybody may write an alias; the name has to be one that an agent gives, too.
    let ours = alias.starts_with("heddle ") && name.starts_with("hdl");
    ours.then_some(MarkedLink { ifindex: link.header.index, name, mark: LinkMark(alias) })
}
