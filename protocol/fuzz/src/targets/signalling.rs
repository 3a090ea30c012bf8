//! Messages to and from the rendezvous.

use arbitrary::{Result, Unstructured};
use minicbor::{Decode, Encode};
use punchcast_protocol::address::canonical;
use punchcast_protocol::candidate::Candidate;
use punchcast_protocol::link::BroadcasterId;
use punchcast_protocol::message::{self, LENGTH_PREFIX};
use punchcast_protocol::opening::Credentials;
use punchcast_protocol::signalling::{FromRendezvous, Introduction, Refusal, ToRendezvous};

use super::choose::{Input, candidate, several};

/// Decodes the bytes as each message, then round-trips messages made of them.
pub fn run(data: &[u8]) {
    if let Some(
        ToRendezvous::Register { candidates } | ToRendezvous::Introduce { candidates, .. },
    ) = decoded::<ToRendezvous>(data)
    {
        legal(&candidates);
    }
    match decoded::<FromRendezvous>(data) {
        Some(FromRendezvous::Introduction { introduction }) => legal(&introduction.peer),
        Some(FromRendezvous::Registered { observed }) => legal(&[observed]),
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

fn written(input: &mut Input<'_>) -> Result<()> {
    let candidates = several(input, 20, candidate)?;
    let observed = candidate(input)?;
    match input.int_in_range(0..=4u8)? {
        0 => returns(&ToRendezvous::Register { candidates }),
        1 => {
            let broadcaster = BroadcasterId::new(input.arbitrary()?);
            returns(&ToRendezvous::Introduce { broadcaster, candidates });
        }
        2 => returns(&FromRendezvous::Registered { observed }),
        3 => {
            let introduction = Introduction {
                id: input.arbitrary()?,
                secret: input.arbitrary()?,
                peer: candidates,
                observed,
            };
            returns(&FromRendezvous::Introduction { introduction });
        }
        _ => {
            use Refusal::{Busy, NoKey, Unexpected, UnknownBroadcaster};
            let reason = *input.choose(&[UnknownBroadcaster, NoKey, Busy, Unexpected])?;
            returns(&FromRendezvous::Refused { reason });
        }
    }
    Ok(())
}
