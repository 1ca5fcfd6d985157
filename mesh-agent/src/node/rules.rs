//! Routing rules, the same for both families:
//!
//! ```text
//!  96: iif lo fwmark 0x400/0xf00 lookup 2006       the node's own connections that policy sends to the proxy: over lo
//!  97: iif lo goto 99                              the node's own packets need no decision
//!  98: to|from POD_CIDR fwmark 0/0xf00 prohibit    what no program has decided goes nowhere
//!  99: fwmark 0xa00/0xf00 lookup main              the proxy's upstream sockets
//! 100: iif lo fwmark 0x200/0xf00 lookup main       reverse path checks of rule 101's packets
//! 101: fwmark 0x200/0xf00 lookup 2005              packets given to the proxy: local, whatever their address
//! ```
//! Rule 98 makes a missing program fail closed, on whatever device a packet comes. It goes by address and not
//! by device, so that its cost does not grow with the pods. What is addressed to the node itself never meets
//! it (table `local`, rule 0). The reverse path checks of forwarded packets do, and pass by the packet's mark
//! (`src_valid_mark`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::{LOOPBACK, NodeError, ROUTE_PROTOCOL};

/// Table whose only route makes every address local.
const LOCAL_TABLE: u32 = 2005;
/// The same for what the node's own processes send, from an address of the node. (Without one the kernel would
/// take the pod's own address as source.)
const NODE_TABLE: u32 = 2006;
const MAIN_TABLE: u32 = 254;

const POLICED: u32 = 96;
const OWN: u32 = 97;
const UNDECIDED: u32 = 98;
const UPSTREAM: u32 = 99;
const ANSWERS: u32 = 100;
const TO_PROXY: u32 = 101;

/// One routing rule, as far as ours go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) v6: bool,
    pub(super) priority: u32,
    /// Only for packets of the node itself.
    pub(super) from_loopback: bool,
    /// Value of the mark under [`abi::mark::MASK`].
    pub(super) mark: Option<u32>,
    pub(super) from: Option<IpNet>,
    pub(super) to: Option<IpNet>,
    pub(super) action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Lookup(u32),
    Goto(u32),
    Prohibit,
}

/// Every rule for pods of these ranges. `police_node`: the node's own processes may need the proxy.
pub(super) fn wanted(pod_cidrs: &[IpNet], police_node: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for v6 in [false, true] {
        let rule = |priority, action| Rule {
            v6,
            priority,
            from_loopback: false,
            mark: None,
            from: None,
            to: None,
            action,
        };
        let main = Action::Lookup(MAIN_TABLE);
        // The target of the jump first.
        rules.push(Rule { mark: Some(abi::mark::UPSTREAM), ..rule(UPSTREAM, main) });
        if police_node {
            let policed = rule(POLICED, Action::Lookup(NODE_TABLE));
            rules.push(Rule { from_loopback: true, mark: Some(abi::mark::NODE), ..policed });
        }
        rules.push(Rule { from_loopback: true, ..rule(OWN, Action::Goto(UPSTREAM)) });
        rules.push(Rule { from_loopback: true, mark: Some(abi::mark::TO_PROXY), ..rule(ANSWERS, main) });
        rules.push(Rule { mark: Some(abi::mark::TO_PROXY), ..rule(TO_PROXY, Action::Lookup(LOCAL_TABLE)) });
        for cidr in pod_cidrs.iter().filter(|cidr| matches!(cidr, IpNet::V6(_)) == v6) {
            let undecided = Rule { mark: Some(0), ..rule(UNDECIDED, Action::Prohibit) };
            rules.push(Rule { to: Some(cidr.trunc()), ..undecided });
            rules.push(Rule { from: Some(cidr.trunc()), ..undecided });
        }
    }
    rules
}

/// Makes our rules exactly these: adds what is missing, then removes what is too much.
pub(super) async fn sync(handle: &Handle, wanted: &[Rule]) -> Result<(), NodeError> {
    let there = list(handle).await?;
    for rule in wanted.iter().filter(|rule| !there.contains(rule)) {
        let mut request = handle.rule().add();
        *request.message_mut() = rule.message();
        request.execute().await.map_err(NodeError::netlink(format!("add routing rule {rule:?}")))?;
    }
    for rule in there.iter().filter(|rule| !wanted.contains(rule)) {
        let request = handle.rule().del(rule.message()).execute();
        request.await.map_err(NodeError::netlink(format!("remove routing rule {rule:?}")))?;
    }
    Ok(())
}

/// The rules that carry our tag.
pub(super) async fn list(handle: &Handle) -> Result<Vec<Rule>, NodeError> {
    let mut rules = Vec::new();
    for family in [IpVersion::V4, IpVersion::V6] {
        let messages: Vec<RuleMessage> = handle
            .rule()
            .get(family)
            .execute()
            .try_collect()
            .await
            .map_err(NodeError::netlink("list the routing rules"))?;
        rules.extend(messages.iter().filter_map(Rule::parse));
    }
    Ok(rules)
}

/// Makes every address local in [`LOCAL_TABLE`], and in [`NODE_TABLE`] for each family that `sources` has an
/// address of.
pub(super) async fn add_local_routes(handle: &Handle, sources: &[IpAddr]) -> Result<(), NodeError> {
    let policed = sources.iter().map(|source| local_route(source.is_ipv4(), NODE_TABLE, Some(*source)));
    for route in local_routes(LOCAL_TABLE).into_iter().chain(policed) {
        let request = handle.route().add(route).replace().execute();
        request.await.map_err(NodeError::netlink("add a local route of our own tables"))?;
    }
    if sources.is_empty() { remove_routes(handle, local_routes(NODE_TABLE)).await } else { Ok(()) }
}

/// Removes what [`add_local_routes`] added.
pub(super) async fn remove_local_routes(handle: &Handle) -> Result<(), NodeError> {
    remove_routes(handle, local_routes(NODE_TABLE)).await?;
    remove_routes(handle, local_routes(LOCAL_TABLE)).await
}

async fn remove_routes(handle: &Handle, routes: [RouteMessage; 2]) -> Result<(), NodeError> {
    for route in routes {
        match handle.route().del(route).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ESRCH => {}
            other => other.map_err(NodeError::netlink("remove a route of our own tables"))?,
        }
    }
    Ok(())
}

fn local_routes(table: u32) -> [RouteMessage; 2] {
    [true, false].map(|v4| local_route(v4, table, None))
}

/// `local default dev lo [src SOURCE] table TABLE`
fn local_route(v4: bool, table: u32, source: Option<IpAddr>) -> RouteMessage {
    let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    let mut route = if v4 {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .table_id(table)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .protocol(protocol)
            .output_interface(LOOPBACK)
            .build()
    } else {
        RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
            .table_id(table)
            .kind(RouteType::Local)
            .protocol(protocol)
            .output_interface(LOOPBACK)
            .build()
    };
    route.attributes.extend(source.map(|source| {
        RouteAttribute::PrefSource(match source {
            IpAddr::V4(source) => RouteAddress::Inet(source),
            IpAddr::V6(source) => RouteAddress::Inet6(source),
        })
    }));
    route
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)));
        if self.from_loopback {
            attributes.push(RuleAttribute::Iifname("lo".into()));
        }
        if let Some(mark) = self.mark {
            attributes.push(RuleAttribute::FwMark(mark));
            attributes.push(RuleAttribute::FwMask(abi::mark::MASK));
        }
        if let Some(net) = self.from {
            message.header.src_len = net.prefix_len();
            attributes.push(RuleAttribute::Source(net.addr()));
        }
        if let Some(net) = self.to {
            message.header.dst_len = net.prefix_len();
            attributes.push(RuleAttribute::Destination(net.addr()));
        }
        message.header.action = match self.action {
            Action::Lookup(table) => {
                attributes.push(RuleAttribute::Table(table));
                RuleAction::ToTable
            }
            Action::Goto(priority) => {
                attributes.push(RuleAttribute::Goto(priority));
                RuleAction::Goto
            }
            Action::Prohibit => RuleAction::Prohibit,
        };
        message
    }

    /// A rule with our tag; `None` for those of others.
    fn parse(message: &RuleMessage) -> Option<Self> {
        let header = &message.header;
        let mut ours = false;
        let (mut table, mut target) = (u32::from(header.table), 0);
        let mut rule = Self {
            v6: header.family == AddressFamily::Inet6,
            priority: 0,
            from_loopback: false,
            mark: None,
            from: None,
            to: None,
            action: Action::Prohibit,
        };
        let net = |address: IpAddr, len: u8| IpNet::new(address, len).ok();
        let (mut mark, mut masked) = (0, false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == ROUTE_PROTOCOL,
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Iifname(name) => rule.from_loopback = name == "lo",
                // The kernel leaves out a mark of 0 but not its mask.
                RuleAttribute::FwMark(value) => mark = *value,
                RuleAttribute::FwMask(mask) => masked = *mask == abi::mark::MASK,
                RuleAttribute::Source(address) => rule.from = net(*address, header.src_len),
                RuleAttribute::Destination(address) => rule.to = net(*address, header.dst_len),
                RuleAttribute::Table(id) => table = *id,
                RuleAttribute::Goto(priority) => target = *priority,
                _ => {}
            }
        }
        rule.mark = masked.then_some(mark);
        rule.action = match header.action {
            RuleAction::Goto => Action::Goto(target),
            RuleAction::Prohibit => Action::Prohibit,
            _ => Action::Lookup(table),
        };
        ours.then_some(rule)
    }
}
