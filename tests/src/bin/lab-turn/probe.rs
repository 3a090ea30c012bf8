//! Requests made by hand, so that wrong ones can be sent as well. Steps:
//!
//! - `bare`: Allocate without credentials
//! - `allocate`, `refresh`, `free`: as the RFC has them, with credentials
//! - `permit:IP`, `bind:ADDRESS`: CreatePermission; ChannelBind of the next channel
//! - `rebind:ADDRESS`: ChannelBind of the last channel once more
//! - `no-transport`, `unknown`, `stale`: Allocate without REQUESTED-TRANSPORT, with an attribute that
//!   nobody knows, with a nonce of the past
//! - `another`: goes on from another port

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail};
use stun_types::attribute::{AttributeType, ErrorCode, Nonce, RawAttribute, Realm, Username};
use stun_types::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageType, MessageWrite,
    MessageWriteExt, MessageWriteVec, Method, TransactionId,
};
use stun_types::prelude::AttributeWrite;
use turn_types::attribute::{ChannelNumber, Lifetime, RequestedTransport, XorPeerAddress};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};

/// How long an answer may take before the request is sent again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Transmissions of a request.
const TRIES: usize = 5;
/// First channel number (RFC 8656, section 12).
const FIRST_CHANNEL: u16 = 0x4000;

pub(crate) fn run(
    server: SocketAddr,
    username: &str,
    password: &str,
    steps: &[&str],
) -> anyhow::Result<()> {
    let mut probe = Probe {
        server,
        username,
        password,
        socket: UdpSocket::bind("0.0.0.0:0")?,
        challenge: None,
        channel: FIRST_CHANNEL - 1,
    };
    for step in steps {
        println!("{step} {}", probe.step(step)?);
    }
    Ok(())
}

struct Probe<'a> {
    server: SocketAddr,
    username: &'a str,
    password: &'a str,
    socket: UdpSocket,
    challenge: Option<Challenge>,
    channel: u16,
}

#[derive(Clone)]
struct Challenge {
    realm: String,
    nonce: String,
}

/// What came back.
struct Answer {
    code: u16,
    challenge: Option<Challenge>,
}

impl Probe<'_> {
    fn step(&mut self, step: &str) -> anyhow::Result<u16> {
        let transaction = TransactionId::generate();
        let (name, argument) = step.split_once(':').unwrap_or((step, ""));
        let udp = RequestedTransport::new(RequestedTransport::UDP);
        let any_port = 9;
        match name {
            "bare" => Ok(self.exchange(ALLOCATE, transaction, &[&udp], None)?.code),
            "allocate" => self.request(ALLOCATE, transaction, &[&udp]),
            "no-transport" => self.request(ALLOCATE, transaction, &[]),
            "unknown" => {
                let unknown = RawAttribute::new(AttributeType::new(0x7f00), b"what");
                self.request(ALLOCATE, transaction, &[&udp, &unknown])
            }
            "stale" => {
                let challenge = self.challenge()?;
                let stale = Challenge { nonce: "of-the-past".to_owned(), ..challenge };
                Ok(self.exchange(ALLOCATE, transaction, &[&udp], Some(&stale))?.code)
            }
            "refresh" => self.request(REFRESH, transaction, &[&Lifetime::new(600)]),
            "free" => self.request(REFRESH, transaction, &[&Lifetime::new(0)]),
            "permit" => {
                let ip: IpAddr = argument.parse().context("an IP address")?;
                let peer = XorPeerAddress::new(SocketAddr::new(ip, any_port), transaction);
                self.request(CREATE_PERMISSION, transaction, &[&peer])
            }
            "bind" | "rebind" => {
                self.channel += u16::from(name == "bind");
                let number = ChannelNumber::new(self.channel);
                let peer =
                    XorPeerAddress::new(argument.parse().context("an address")?, transaction);
                self.request(CHANNEL_BIND, transaction, &[&number, &peer])
            }
            "another" => {
                self.socket = UdpSocket::bind("0.0.0.0:0")?;
                self.challenge = None;
                Ok(0)
            }
            _ => bail!("unknown step {step}"),
        }
    }

    fn challenge(&mut self) -> anyhow::Result<Challenge> {
        if self.challenge.is_none() {
            let udp = RequestedTransport::new(RequestedTransport::UDP);
            let answer = self.exchange(ALLOCATE, TransactionId::generate(), &[&udp], None)?;
            self.challenge = answer.challenge;
        }
        self.challenge.clone().context("a challenge for a request without credentials")
    }

    fn request(
        &mut self,
        method: Method,
        transaction: TransactionId,
        attributes: &[&dyn AttributeWrite],
    ) -> anyhow::Result<u16> {
        let challenge = self.challenge()?;
        Ok(self.exchange(method, transaction, attributes, Some(&challenge))?.code)
    }

    fn exchange(
        &self,
        method: Method,
        transaction: TransactionId,
        attributes: &[&dyn AttributeWrite],
        challenge: Option<&Challenge>,
    ) -> anyhow::Result<Answer> {
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let mut request = Message::builder(kind, transaction, MessageWriteVec::new());
        for attribute in attributes {
            request.push_attribute_unchecked(*attribute);
        }
        if let Some(Challenge { realm, nonce }) = challenge {
            request.add_attribute(&Username::new(self.username)?)?;
            request.add_attribute(&Realm::new(realm)?)?;
            request.add_attribute(&Nonce::new(nonce)?)?;
            let credentials = LongTermKeyCredentials::new(
                self.username.to_owned(),
                self.password.to_owned(),
                realm.clone(),
            );
            let key = credentials.make_key(IntegrityAlgorithm::Sha1);
            request.add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha1)?;
        }
        let request = request.finish();
        self.socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut buffer = [0; 2048];
        for _ in 0..TRIES {
            self.socket.send_to(&request, self.server)?;
            while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
                let Ok(answer) = Message::from_bytes(&buffer[..length]) else { continue };
                if from == self.server && answer.transaction_id() == transaction {
                    return Ok(Answer::read(&answer));
                }
            }
        }
        bail!("{} does not answer", self.server)
    }
}

impl Answer {
    fn read(answer: &Message<'_>) -> Self {
        let code = answer.attribute::<ErrorCode>().map_or(0, |error| error.code());
        let realm = answer.attribute::<Realm>().ok().map(|realm| realm.realm().to_owned());
        let nonce = answer.attribute::<Nonce>().ok().map(|nonce| nonce.nonce().to_owned());
        let challenge = realm.zip(nonce).map(|(realm, nonce)| Challenge { realm, nonce });
        Self { code, challenge }
    }
}
