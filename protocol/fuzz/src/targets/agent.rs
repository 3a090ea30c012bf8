//! Two opening agents and a network that does whatever the input says, to any of several ways out of
//! each, while introductions are renewed, ports predicted and searched, and ways opened and closed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use arbitrary::{Result, Unstructured};
use punchcast_protocol::address::{Policy, admissible, canonical};
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::opening::{
    ANSWERS_IN_TOTAL, ANSWERS_PER_ADDRESS, Agent, CHECK_LENGTH, Config, Credentials, Handled,
    IntroductionId, Local, NotRenewed, OPENERS_IN_TOTAL, OPENERS_PER_ADDRESS, PairId, Renewal,
    Role, SCOUTS_IN_TOTAL, Scouting, Setup, State, Tried,
};
use punchcast_protocol::stun::{Class, Key, TransactionId, Writer, attribute};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::choose::{Input, address, candidate, few_bytes, goes_on, mutate, several, step};

/// Ways out that scenes know; more than an agent pairs at a time.
const WAYS: u32 = 12;

/// What an agent makes of the secret below: base64url of sixteen fours.
const PASSWORD: &str = "BAQEBAQEBAQEBAQEBAQEBA";

/// FINGERPRINT, the one attribute that MESSAGE-INTEGRITY does not cover, in bytes.
const FINGERPRINT: usize = 8;

/// Most datagrams that the network remembers.
const MOST_SENT: usize = 256;

/// Gives two agents datagrams, true, changed, forged by the peer itself or made of anything, with
/// time passing as the input says.
pub fn run(data: &[u8]) {
    // An error means that the input ran out.
    let _ = Game::new().play(&mut Unstructured::new(data));
}

struct Game {
    sides: [Side; 2],
    /// What was sent lately: by whom, on which way, and what.
    sent: Vec<(usize, Local, Vec<u8>)>,
    /// What whoever holds the secret made, without length and FINGERPRINT.
    authentic: BTreeSet<Vec<u8>>,
    now: Instant,
}

struct Side {
    agent: Agent,
    address: SocketAddr,
    policy: Policy,
    /// Where the rendezvous sees the peer.
    seen: Option<SocketAddr>,
    proved: BTreeSet<SocketAddr>,
    /// Checks and answers sent to each address since the last renewal.
    spent: BTreeMap<SocketAddr, (u32, u32)>,
}

impl Game {
    fn new() -> Self {
        let now = Instant::now();
        let addresses = [1, 2].map(|last| SocketAddr::from(([198, 51, 100, last], 5000)));
        let side = |role, own: usize| {
            let policy = Policy::default();
            let setup = Setup {
                role,
                credentials: Credentials { id: IntroductionId([3; 8]), secret: [4; 16] },
                local: vec![Candidate::new(addresses[own], CandidateKind::Reflexive)],
                remote: vec![Candidate::new(addresses[1 - own], CandidateKind::Reflexive)],
                seen: Some(addresses[1 - own]),
                holds: false,
                hop_limit: None,
                policy,
                config: Config::for_role(role),
            };
            let agent = Agent::new(setup, &mut StdRng::seed_from_u64(own as u64), now);
            let (proved, spent) = (BTreeSet::new(), BTreeMap::new());
            let (address, seen) = (addresses[own], Some(addresses[1 - own]));
            Side { agent, address, policy, seen, proved, spent }
        };
        let sides = [side(Role::Viewer, 0), side(Role::Broadcaster, 1)];
        let mut game = Self { sides, sent: Vec::new(), authentic: BTreeSet::new(), now };
        (0..2).for_each(|at| {
            game.drain(at);
        });
        game
    }

    fn play(&mut self, input: &mut Input<'_>) -> Result<()> {
        while goes_on(input) {
            let to = usize::from(input.arbitrary::<bool>()?);
            match input.int_in_range(0..=19u8)? {
                0 => self.now += step(input)?,
                1 | 2 => self.wait(to),
                3 => self.sides[to].agent.handle_authenticated(self.now),
                4 => self.sides[to].agent.check_now(self.now),
                5 => {
                    // Refused where the policy or their number says so.
                    let _ = self.sides[to].agent.add_remote(candidate(input)?, self.now);
                }
                6 => {
                    let bytes = few_bytes(input)?;
                    self.deliver(to, way(input)?, address(input)?, &bytes);
                }
                7 => {
                    let forged = self.forge(input)?;
                    let from = self.source(input, to)?;
                    self.deliver(to, way(input)?, from, &forged);
                }
                8 if !self.sent.is_empty() => {
                    let mut datagram = input.choose(&self.sent)?.2.clone();
                    mutate(input, &mut datagram)?;
                    if input.arbitrary()? && datagram.len() >= 20 {
                        let length = (datagram.len() - 20) as u16;
                        datagram[2..4].copy_from_slice(&length.to_be_bytes());
                    }
                    let from = self.source(input, to)?;
                    self.deliver(to, way(input)?, from, &datagram);
                }
                9 => {
                    let (local, told) = (way(input)?, several(input, 3, candidate)?);
                    self.sides[to].agent.add_local(local, input.arbitrary()?, told, self.now);
                }
                10 => self.remove_local(to, way(input)?),
                11 => {
                    let told = several(input, 3, candidate)?;
                    self.sides[to].agent.told(way(input)?, &told);
                }
                12 => self.scout(input, to)?,
                13 => {
                    let ports = several(input, 24, |input| input.arbitrary::<u16>())?;
                    let ip = self.source(input, to)?.ip();
                    let predict =
                        |port| Candidate::new(SocketAddr::new(ip, port), CandidateKind::Predicted);
                    let candidates: Vec<_> = ports.into_iter().map(predict).collect();
                    self.sides[to].agent.predicted(&candidates, self.now);
                }
                14 => self.renew(input, to)?,
                15 => self.doubt(to),
                16 => self.sides[to].agent.shorten_checks(),
                _ if !self.sent.is_empty() => {
                    // Mostly the latest ones, from where they truly came.
                    let back = input.int_in_range(0..=7usize)?;
                    let at = self.sent.len().saturating_sub(1 + back);
                    let (by, local, datagram) = self.sent[at].clone();
                    // Each way out has an external address of its own.
                    let mut from = self.sides[by].address;
                    from.set_port(from.port() + local.0 as u16);
                    let local = if input.ratio(3, 4)? { Local::MAIN } else { way(input)? };
                    self.deliver(1 - by, local, from, &datagram);
                }
                _ => {}
            }
            (0..2).for_each(|at| {
                self.drain(at);
            });
        }
        Ok(())
    }

    /// The other side, or somebody near it, or anybody.
    fn source(&self, input: &mut Input<'_>, to: usize) -> Result<SocketAddr> {
        let peer = self.sides[1 - to].address;
        Ok(match input.int_in_range(0..=3u8)? {
            0 => address(input)?,
            1 => SocketAddr::new(peer.ip(), 1 + u16::from(input.arbitrary::<u8>()?)),
            _ => peer,
        })
    }

    /// A way out that is closed is gone, unless it is the path's.
    fn remove_local(&mut self, at: usize, local: Local) {
        let agent = &mut self.sides[at].agent;
        let before = (agent.path_pair(), agent.state());
        agent.remove_local(local);
        assert_eq!((agent.path_pair(), agent.state()), before);
    }

    /// Openers in numbers, to where the rendezvous saw the peer and elsewhere.
    fn scout(&mut self, input: &mut Input<'_>, at: usize) -> Result<()> {
        let from = self.source(input, at)?;
        let (first, count) = (input.arbitrary::<u16>()?, input.int_in_range(0..=600u16)?);
        let local = way(input)?;
        let target =
            |ahead| PairId { local, remote: SocketAddr::new(from.ip(), first.wrapping_add(ahead)) };
        let targets: Vec<_> = (0..count).map(target).collect();
        let plan = if input.arbitrary()? {
            Scouting::prediction(targets)
        } else {
            Scouting { interval: step(input)?, ..Scouting::search(targets) }
        };
        let side = &mut self.sides[at];
        let before = side.agent.tried().scouts;
        let taken = side.agent.scout(plan, self.now);
        if side.seen.map(|seen| seen.ip()) != Some(from.ip()) {
            assert_eq!(taken, 0, "scouts where the rendezvous did not see the peer");
        }
        assert!(taken <= usize::from(count) && side.agent.tried().scouts >= before);
        Ok(())
    }

    /// A new round, with a fresh budget, as often as may be.
    fn renew(&mut self, input: &mut Input<'_>, at: usize) -> Result<()> {
        let remote = several(input, 24, candidate)?;
        let seen = if input.arbitrary()? { self.sides[at].seen } else { Some(address(input)?) };
        let holds = input.arbitrary()?;
        self.drain(at);
        let side = &mut self.sides[at];
        let renewal = Renewal { remote, seen, policy: side.policy, holds };
        let before = (side.agent.state(), side.agent.path_pair());
        match side.agent.renew(renewal, self.now) {
            Ok(()) => {
                side.seen = seen;
                side.spent.clear();
                side.proved.clear();
            }
            Err(NotRenewed::Over) => assert!(side.agent.state().is_over()),
            Err(NotRenewed::TooMany) => assert!(!side.agent.state().is_over()),
        }
        let side = &self.sides[at];
        assert_eq!((side.agent.state(), side.agent.path_pair()), before, "a renewal took a path");
        Ok(())
    }

    /// Doubt takes no path away, and leaves time to answer.
    fn doubt(&mut self, at: usize) {
        let agent = &mut self.sides[at].agent;
        let before = agent.path_pair();
        agent.doubt(self.now);
        assert_eq!(agent.path_pair(), before);
        assert!(!agent.state().is_over() || before.is_none());
    }

    /// Lets an agent's next timeout come, which must then not be due any more.
    fn wait(&mut self, at: usize) {
        let agent = &mut self.sides[at].agent;
        let Some((due, reason)) = agent.poll_timeout() else { return };
        self.now = self.now.max(due);
        agent.handle_timeout(self.now);
        if let Some((next, _)) = agent.poll_timeout() {
            assert!(next > self.now, "{reason:?} would spin");
        }
    }

    /// A message with the right credentials and any content, as a hostile peer could send it.
    fn forge(&mut self, input: &mut Input<'_>) -> Result<Vec<u8>> {
        let class =
            *input.choose(&[Class::Request, Class::Success, Class::Error, Class::Indication])?;
        let transaction = TransactionId::from(input.arbitrary::<u128>()?);
        let mut writer = Writer::new(class, transaction);
        if class == Class::Request {
            let role = input.choose(&["v", "b"])?;
            let username = format!("0303030303030303:{role}");
            writer = writer.attribute(attribute::USERNAME, username.as_bytes());
        } else {
            writer = writer
                .attribute(attribute::INTRODUCTION, &[3; 8])
                .xor_mapped_address(address(input)?);
        }
        let others = [
            attribute::USERNAME,
            attribute::PRIORITY,
            attribute::USE_CANDIDATE,
            attribute::NOMINATION,
            attribute::INTRODUCTION,
            attribute::PADDING,
            0x7fff,
        ];
        for value in several(input, 5, few_bytes)? {
            let mut kind = *input.choose(&others)?;
            let mut value = value;
            if input.arbitrary()? {
                kind = attribute::NOMINATION;
                value.resize(4, 0);
            }
            writer = writer.attribute(kind, &value);
        }
        if input.arbitrary()? {
            writer = writer.attribute(attribute::USE_CANDIDATE, &[]);
        }
        let datagram = writer.finish_with(&Key::short_term(PASSWORD));
        self.authentic.insert(signed_part(&datagram));
        Ok(datagram)
    }

    fn deliver(&mut self, to: usize, local: Local, from: SocketAddr, datagram: &[u8]) {
        let side = &mut self.sides[to];
        let agent = &side.agent;
        let before = (agent.state(), agent.remote(), agent.tried());
        match side.agent.handle_datagram(local, from, datagram, self.now) {
            Handled::NotMine(_) => {
                let agent = &side.agent;
                // Answers that the budget refuses are checks received all the same.
                let after = (agent.state(), agent.remote(), agent.tried());
                let uncounted = |(state, remote, tried): (State, Option<SocketAddr>, Tried)| {
                    let tried =
                        Tried { checks_received: 0, remotes: 0, peer_reflexive: 0, ..tried };
                    (state, remote, tried)
                };
                assert_eq!(uncounted(after), uncounted(before));
                assert_eq!(self.drain(to), Vec::<usize>::new(), "a stranger caused a datagram");
            }
            Handled::Mine => {
                assert!(admissible(from, &side.policy).is_ok());
                let is_known = self.authentic.contains(&signed_part(datagram))
                    || (FINGERPRINT..=datagram.len())
                        .any(|end| self.authentic.contains(&masked(&datagram[..end])));
                assert!(is_known, "an altered message took effect");
                // The answer, which comes first, is no longer than its check.
                let is_check = datagram[0] == 0;
                let answer = self.drain(to).into_iter().next();
                assert!(!is_check || answer.is_some_and(|length| length <= datagram.len()));
            }
        }
    }

    /// Takes what an agent sends, and checks that it may. Returns the datagrams' lengths.
    fn drain(&mut self, at: usize) -> Vec<usize> {
        let side = &mut self.sides[at];
        let mut lengths = Vec::new();
        while let Some(transmit) = side.agent.poll_transmit() {
            assert!(admissible(transmit.to, &side.policy).is_ok());
            assert_eq!(canonical(transmit.to), transmit.to);
            assert!(transmit.payload.len() <= CHECK_LENGTH);
            let spent = side.spent.entry(transmit.to).or_default();
            if transmit.payload[0] == 0 {
                spent.0 += 1
            } else {
                spent.1 += 1
            }
            lengths.push(transmit.payload.len());
            self.authentic.insert(signed_part(&transmit.payload));
            if self.sent.len() == MOST_SENT {
                self.sent.remove(0);
            }
            self.sent.push((at, transmit.local, transmit.payload));
        }
        while side.agent.poll_event().is_some() {}
        let agent = &side.agent;
        assert_eq!(agent.poll_timeout().is_none(), agent.state().is_over());
        assert!(agent.remote().is_none_or(|remote| agent.is_proved(remote)));
        side.proved.extend(side.spent.keys().filter(|to| agent.is_proved(**to)));
        let scouts = agent.tried().scouts;
        assert!(scouts <= SCOUTS_IN_TOTAL);
        let (mut total, mut may_be_scouted) = ((0, 0), 0);
        for (to, spent) in side.spent.iter().filter(|(to, _)| !side.proved.contains(to)) {
            // Scouts have a bound of their own, and go only to where the rendezvous saw the peer.
            let is_seen = side.seen.is_some_and(|seen| canonical(seen).ip() == to.ip());
            let most = OPENERS_PER_ADDRESS + if is_seen { scouts } else { 0 };
            assert!(spent.0 <= most && spent.1 <= ANSWERS_PER_ADDRESS, "{to}: {spent:?}");
            may_be_scouted += if is_seen { spent.0 } else { 0 };
            total = (total.0 + spent.0, total.1 + spent.1);
        }
        let openers = total.0 - may_be_scouted.min(scouts);
        assert!(openers <= OPENERS_IN_TOTAL && total.1 <= ANSWERS_IN_TOTAL, "{total:?}");
        lengths
    }
}

/// One of a side's ways out, known to it or not.
fn way(input: &mut Input<'_>) -> Result<Local> {
    Ok(Local(input.int_in_range(0..=WAYS - 1)?))
}

/// What MESSAGE-INTEGRITY of a message that ends with FINGERPRINT covers, and itself.
fn signed_part(datagram: &[u8]) -> Vec<u8> {
    masked(&datagram[..datagram.len().saturating_sub(FINGERPRINT)])
}

/// Without the header's length, which changes when attributes are added behind.
fn masked(datagram: &[u8]) -> Vec<u8> {
    let mut masked = datagram.to_vec();
    masked.iter_mut().skip(2).take(2).for_each(|byte| *byte = 0);
    masked
}
