//! Messages to and from the rendezvous.

use arbitrary::{Result, Unstructured};
use minicbor::{Decode, Encode};
use punchcast_protocol::address::canonical;
use punchcast_protocol::behaviour::{Behaviour, Dependence, Ports};
use punchcast_protocol::candidate::Candidate;
use punchcast_protocol::link::BroadcasterId;
use punchcast_protocol::message::{self, LENGTH_PREFIX};
use punchcast_protocol::opening::{Credentials, IntroductionId};
use punchcast_protocol::signalling::{
    Forecast, FromRendezvous, Introduction, Party, Refusal, RelayOffer, RelayServer, ToRendezvous,
    Token, Update,
};

use super::choose::{Input, candidate, several, text};

/// Decodes the bytes as each message, then round-trips messages made of them.
pub fn run(data: &[u8]) {
    match decoded::<ToRendezvous>(data) {
        Some(ToRendezvous::Register { party, .. } | ToRendezvous::Introduce { party, .. }) => {
            legal(&party.candidates);
        }
        Some(ToRendezvous::Update { update, .. }) => legal(&update.candidates),
        None => {}
    }
    match decoded::<FromRendezvous>(data) {
        Some(FromRendezvous::Introduction { introduction }) => legal(&introduction.remote()),
        Some(FromRendezvous::Registered { observed }) => legal(&[observed]),
        Some(FromRendezvous::Update { update, .. }) => legal(&update.candidates),
        Some(FromRendezvous::Refused { .. }) | None => {}
    }
    decoded::<Credentials>(data);
    // An error means that the input ran out.
    let _ = written(&mut Unstructured::new(data));
}

/// A message that decodes, encodes and decodes to itself.
pub(super) fn decoded<T>(bytes: &[u8]) -> Option<T>
where
    T: Encode<()> + for<'a> Decode<'a, ()> + PartialEq + std::fmt::Debug,
{
    let value: T = message::decode(bytes).ok()?;
    returns(&value);
    Some(value)
}

/// A message encodes and decodes to itself.
pub(super) fn returns<T>(value: &T)
where
    T: Encode<()> + for<'a> Decode<'a, ()> + PartialEq + std::fmt::Debug,
{
    let bytes = message::encode(value);
    let (prefix, rest) = bytes.split_first_chunk::<LENGTH_PREFIX>().expect("a prefix is there");
    assert_eq!(u32::from_be_bytes(*prefix) as usize, rest.len());
    let again: T = message::decode(rest).expect("what was encoded decodes");
    assert_eq!(again, *value);
}

fn legal(candidates: &[Candidate]) {
    for candidate in candidates {
        assert_eq!(canonical(candidate.address), candidate.address);
    }
}

fn behaviour(input: &mut Input<'_>) -> Result<Behaviour> {
    let depends = [Dependence::Independent, Dependence::Address, Dependence::AddressAndPort];
    let step = input.arbitrary()?;
    let ports = [Ports::Preserved, Ports::Other, Ports::Sequential { step }, Ports::Random];
    Ok(Behaviour {
        translated: input.arbitrary()?,
        mapping: Some(*input.choose(&depends)?),
        filtering: None,
        ports: Some(*input.choose(&ports)?),
        takes_unsolicited: input.arbitrary()?,
        hairpin: input.arbitrary()?,
    })
}

fn written(input: &mut Input<'_>) -> Result<()> {
    let candidates = several(input, 20, candidate)?;
    let observed = candidate(input)?;
    let introduction = IntroductionId(input.arbitrary()?);
    let party = Party { candidates: candidates.clone(), behaviour: behaviour(input)? };
    match input.int_in_range(0..=5u8)? {
        0 => returns(&ToRendezvous::Register { party, token: Token::new(input.arbitrary()?) }),
        1 => {
            let broadcaster = BroadcasterId::new(input.arbitrary()?);
            let renews = Some(introduction).filter(|_| candidates.len() > 3);
            returns(&ToRendezvous::Introduce { broadcaster, party, renews });
        }
        2 => returns(&FromRendezvous::Registered { observed }),
        3 => {
            let port = input.arbitrary()?;
            let server = match port % 2u16 {
                0 => RelayServer::SameHost { port },
                _ => RelayServer::At { host: text(input)?, port },
            };
            let username = String::from_utf8_lossy(input.bytes(8)?).into_owned();
            let introduction = Introduction {
                id: introduction,
                secret: input.arbitrary()?,
                peer: party,
                peer_observed: candidate(input)?,
                observed,
                relay: Some(RelayOffer { server, username, password: String::new() }),
            };
            returns(&FromRendezvous::Introduction { introduction });
        }
        4 => {
            let (attempt, next, step) = input.arbitrary()?;
            let update = Update {
                candidates,
                forecast: Some(Forecast { attempt, next, step }),
                sockets: input.arbitrary()?,
                is_gone: input.arbitrary()?,
            };
            returns(&ToRendezvous::Update { introduction, update: update.clone() });
            returns(&FromRendezvous::Update { introduction, update });
        }
        _ => {
            use Refusal::{Busy, NoKey, NotListed, Unexpected, UnknownBroadcaster};
            let reasons = [UnknownBroadcaster, NoKey, Busy, Unexpected, NotListed];
            let reason = *input.choose(&reasons)?;
            returns(&FromRendezvous::Refused { reason });
        }
    }
    Ok(())
}
