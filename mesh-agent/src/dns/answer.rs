//! From the bytes of a query to the bytes of an answer, without I/O.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Lookup, Records, TTL, Zone};

/// Longest UDP answer to a client that says nothing (RFC 1035, 4.2.1).
const UDP_PLAIN_MAX: u16 = 512;
/// Longest UDP answer that we send or say we take: it is not fragmented anywhere (DNS Flag Day 2020).
pub(super) const UDP_MAX: u16 = 1232;
/// Longest chain of CNAMEs followed within the zone.
const CNAME_MAX: usize = 8;
/// Length of a message's header, bytes.
const HEADER: usize = 12;

/// How a query came, and so how long the answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a query.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: not a query, or too broken to answer.
    Ignore,
    /// Send these bytes.
    Answer(Vec<u8>),
    /// Ask upstream for the whole question.
    Forward(Pending),
    /// Ask upstream where a CNAME that leaves the cluster leads to, and add that.
    Chase(Pending, Name),
}

/// An answer that is not complete.
#[derive(Debug)]
pub(super) struct Pending {
    /// The question as it came.
    pub(super) query: Query,
    answer: Message,
    limit: usize,
}

impl Pending {
    /// The answer with a response code and nothing else.
    pub(super) fn fail(mut self, code: ResponseCode) -> Option<Vec<u8>> {
        self.answer.answers.clear();
        self.answer.metadata.response_code = code;
        self.answer.metadata.authoritative = false;
        encode(&self.answer, self.limit)
    }

    /// The answer with what upstream said, after our own CNAMEs.
    pub(super) fn complete(mut self, upstream: Message) -> Option<Vec<u8>> {
        self.answer.metadata.response_code = upstream.metadata.response_code;
        self.answer.metadata.truncation = upstream.metadata.truncation;
        self.answer.metadata.authoritative &= upstream.answers.is_empty();
        self.answer.add_answers(upstream.answers);
        self.answer.add_authorities(upstream.authorities);
        encode(&self.answer, self.limit)
    }
}

/// Answers a query. `recursion`: there are upstream servers.
pub(super) fn answer(zone: &Zone, bytes: &[u8], transport: Transport, recursion: bool) -> Step {
    let Ok(query) = Message::from_vec(bytes) else { return malformed(bytes) };
    if query.metadata.message_type != MessageType::Query {
        return Step::Ignore;
    }
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = recursion;
    answer.add_queries(query.queries.iter().cloned());
    let limit = limit(&query, transport);
    let finish = |mut answer: Message, code: ResponseCode| {
        answer.metadata.response_code = code;
        encode(&answer, limit).map_or(Step::Ignore, Step::Answer)
    };
    if let Some(theirs) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        answer.set_edns(edns);
        if theirs.version() != 0 {
            return finish(answer, ResponseCode::BADVERS);
        }
    }
    if query.metadata.op_code != OpCode::Query {
        return finish(answer, ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else { return finish(answer, ResponseCode::FormErr) };
    if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
        return finish(answer, ResponseCode::Refused);
    }
    resolve(zone, question, answer, limit, recursion)
}

fn resolve(zone: &Zone, question: &Query, mut answer: Message, limit: usize, recursion: bool) -> Step {
    let wanted = question.query_type();
    // The owner is spelled as in the question (RFC 1034, 3.1: case is to be preserved).
    let mut owner = question.name().clone();
    for hop in 0..CNAME_MAX {
        match zone.lookup(&owner) {
            Lookup::Found(records) => {
                answer.metadata.authoritative = true;
                let rotation = usize::from(answer.metadata.id);
                add(&mut answer, &owner, records, wanted, rotation);
                let soa_wanted = matches!(wanted, RecordType::SOA | RecordType::ANY);
                if let (true, Some((apex, soa))) = (soa_wanted, &zone.soa)
                    && apex.eq_ignore_root(&owner)
                {
                    let data = RData::SOA(soa.clone());
                    answer.add_answer(Record::from_rdata(owner.clone(), TTL, data));
                }
                match &records.cname {
                    Some(target) if !matches!(wanted, RecordType::CNAME | RecordType::ANY) => {
                        owner = target.clone();
                    }
                    _ => return negative(zone, answer, limit, ResponseCode::NoError),
                }
            }
            Lookup::Missing => {
                answer.metadata.authoritative = true;
                return negative(zone, answer, limit, ResponseCode::NXDomain);
            }
            Lookup::Elsewhere => {
                let pending = Pending { query: question.clone(), answer, limit };
                return match (hop, recursion) {
                    (0, true) => Step::Forward(pending),
                    (0, false) => pending.fail(ResponseCode::Refused).map_or(Step::Ignore, Step::Answer),
                    (_, true) => Step::Chase(pending, owner),
                    // The alias itself is all that we know.
                    (_, false) => encode(&pending.answer, limit).map_or(Step::Ignore, Step::Answer),
                };
            }
        }
    }
    let pending = Pending { query: question.clone(), answer, limit };
    pending.fail(ResponseCode::ServFail).map_or(Step::Ignore, Step::Answer)
}

fn add(answer: &mut Message, owner: &Name, records: &Records, wanted: RecordType, rotation: usize) {
    let any = wanted == RecordType::ANY;
    let mut all: Vec<RData> = Vec::new();
    if any || wanted == RecordType::A {
        all.extend(records.v4.iter().map(|address| RData::A(A(*address))));
    }
    if any || wanted == RecordType::AAAA {
        all.extend(records.v6.iter().map(|address| RData::AAAA(AAAA(*address))));
    }
    if any || wanted == RecordType::SRV {
        let srv = |(port, target): &(u16, Name)| RData::SRV(SRV::new(0, 100, *port, target.clone()));
        all.extend(records.srv.iter().map(srv));
    }
    if any || wanted == RecordType::PTR {
        all.extend(records.ptr.iter().map(|name| RData::PTR(PTR(name.clone()))));
    }
    if !all.is_empty() {
        // Clients take the first one: spread them.
        let middle = rotation % all.len();
        all.rotate_left(middle);
    }
    if let Some(target) = &records.cname {
        all.push(RData::CNAME(CNAME(target.clone())));
    }
    for data in all {
        answer.add_answer(Record::from_rdata(owner.clone(), TTL, data));
    }
}

/// Finishes an answer; one without the data that was asked for gets the SOA record, which says how long it
/// may be remembered (RFC 2308, 3).
fn negative(zone: &Zone, mut answer: Message, limit: usize, code: ResponseCode) -> Step {
    answer.metadata.response_code = code;
    let aliases_only = answer.answers.iter().all(|record| record.record_type() == RecordType::CNAME);
    let asked_alias = answer.queries.iter().any(|query| query.query_type() == RecordType::CNAME);
    let empty = answer.answers.is_empty() || (aliases_only && !asked_alias);
    if let (true, Some((apex, soa))) = (empty, &zone.soa) {
        answer.add_authority(Record::from_rdata(apex.clone(), TTL, RData::SOA(soa.clone())));
    }
    encode(&answer, limit).map_or(Step::Ignore, Step::Answer)
}

/// FORMERR for what has a query's header at least.
fn malformed(bytes: &[u8]) -> Step {
    let (Some(&[high, low]), Some(flags), true) = (bytes.first_chunk(), bytes.get(2), bytes.len() >= HEADER)
    else {
        return Step::Ignore;
    };
    if flags & 0x80 != 0 {
        return Step::Ignore;
    }
    let id = u16::from_be_bytes([high, low]);
    let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    encode(&answer, usize::from(UDP_PLAIN_MAX)).map_or(Step::Ignore, Step::Answer)
}

fn limit(query: &Message, transport: Transport) -> usize {
    match (transport, &query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload().clamp(UDP_PLAIN_MAX, UDP_MAX)),
        (Transport::Udp, None) => usize::from(UDP_PLAIN_MAX),
    }
}

/// The bytes; what is too long is sent without records and with the TC bit, so that the client asks again
/// over TCP (RFC 2181, 9).
fn encode(answer: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= limit { Some(bytes) } else { answer.truncate().to_vec().ok() }
}
