//! Introducing two parties by hand, without a rendezvous: the broadcaster's offer and the viewer's
//! answer, each one line of text that people carry over by whatever they talk with.
//!
//! Both sides learn their external address from any STUN server. An offer may be used by several
//! viewers; an answer carries the credentials of its one introduction, minted by the viewer. Whoever
//! reads both lines can disturb the opening, and no more: the viewer pins the broadcaster's key.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Encode};

use crate::candidate::Candidate;
use crate::link::{BroadcasterId, Secret};
use crate::opening::Credentials;
use crate::signalling::MAX_CANDIDATES;

const OFFER: &str = "punchcast-offer:";
const ANSWER: &str = "punchcast-answer:";

/// Longest text that is read as an offer or an answer, in bytes.
const MAX_TEXT: usize = 4096;

/// What a broadcaster offers to whoever gets the line.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// Its key.
    #[n(0)]
    pub broadcaster: BroadcasterId,
    /// How it is reached, the address that a STUN server saw included.
    #[n(1)]
    pub candidates: Vec<Candidate>,
    /// The channel.
    #[n(2)]
    pub channel: String,
    /// What admits the holder.
    #[n(3)]
    pub secret: Option<Secret>,
    /// STUN servers that it asked, each HOST:PORT, for the viewer to ask as well.
    #[n(4)]
    pub stun: Vec<String>,
}

/// What a viewer answers to an offer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// The introduction's credentials.
    #[n(0)]
    pub credentials: Credentials,
    /// How the viewer is reached.
    #[n(1)]
    pub candidates: Vec<Candidate>,
}

/// Why a text is no offer, or no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It begins with something else.
    #[error("it does not begin with {0}")]
    Kind(&'static str),
    /// It is cut, or something is in it that does not belong.
    #[error("it is damaged: copy the whole line again")]
    Damaged,
}

fn parse<T>(text: &str, kind: &'static str) -> Result<T, OfferError>
where
    T: for<'a> Decode<'a, ()>,
{
    let text = text.trim();
    let body = text.strip_prefix(kind).ok_or(OfferError::Kind(kind))?;
    if body.len() > MAX_TEXT {
        return Err(OfferError::Damaged);
    }
    let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| OfferError::Damaged)?;
    minicbor::decode(&bytes).map_err(|_| OfferError::Damaged)
}

fn write<T: Encode<()>>(value: &T, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let bytes = minicbor::to_vec(value).map_err(|_| fmt::Error)?;
    write!(f, "{kind}{}", URL_SAFE_NO_PAD.encode(bytes))
}

impl FromStr for Offer {
    type Err = OfferError;

    fn from_str(text: &str) -> Result<Self, OfferError> {
        let mut offer: Self = parse(text, OFFER)?;
        offer.candidates.truncate(MAX_CANDIDATES);
        Ok(offer)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self, OFFER, f)
    }
}

impl FromStr for Answer {
    type Err = OfferError;

    fn from_str(text: &str) -> Result<Self, OfferError> {
        let mut answer: Self = parse(text, ANSWER)?;
        answer.candidates.truncate(MAX_CANDIDATES);
        Ok(answer)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self, ANSWER, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::candidate::CandidateKind;
    use crate::opening::IntroductionId;

    fn candidates(ports: &[u16]) -> Vec<Candidate> {
        let candidate =
            |port: &u16| Candidate::new(([192, 0, 2, 1], *port).into(), CandidateKind::Reflexive);
        ports.iter().map(candidate).collect()
    }

    #[test]
    fn what_is_no_offer_is_said() {
        let table = [
            ("punchcast://x", OfferError::Kind(OFFER)),
            ("punchcast-answer:AAAA", OfferError::Kind(OFFER)),
            ("punchcast-offer:", OfferError::Damaged),
            ("punchcast-offer:AAAA", OfferError::Damaged),
            ("punchcast-offer:%", OfferError::Damaged),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Offer>(), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_read_back(
            key: [u8; 32],
            ports in proptest::collection::vec(1u16.., 0..8),
            channel in ".{0,20}",
            secret in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..60)),
            id: [u8; 8],
        ) {
            let offer = Offer {
                broadcaster: BroadcasterId::new(key),
                candidates: candidates(&ports),
                channel,
                secret: secret.and_then(Secret::new),
                stun: vec!["stun.example:3478".into()],
            };
            prop_assert_eq!(format!(" {offer}\n").parse::<Offer>(), Ok(offer));
            let credentials = Credentials { id: IntroductionId(id), secret: [7; 16] };
            let answer = Answer { credentials, candidates: candidates(&ports) };
            prop_assert_eq!(answer.to_string().parse::<Answer>(), Ok(answer));
        }

        #[test]
        fn any_text_parses_or_fails(text in ".{0,80}") {
            let _ = format!("{OFFER}{text}").parse::<Offer>();
            let _ = format!("{ANSWER}{text}").parse::<Answer>();
        }
    }
}
