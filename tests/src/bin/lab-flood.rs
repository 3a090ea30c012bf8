//! A flood from addresses that are not its own.
//!
//! `lab-flood TO KIND RATE SECONDS NETWORK`: to this address and port; `initial` (QUIC handshakes that begin as they
//! should, each one of its own), `stun` (Binding requests), `random` (bytes), or `corpus:FOLDER` (each file below it once,
//! whatever the time, and some of the others; QUIC's beginnings with a few bytes behind them that make as if they went on); so many datagrams a second, for so long; each from a random address of a
//! network such as 198.19.0.0/16, and a random port. Prints how many it sent.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use protocol::signalling::ALPN;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use socket2::{Domain, Protocol, Socket, Type};

/// Handshakes that are made in advance: each begins again when all others have.
const HANDSHAKES: usize = 20_000;

/// Beginnings and requests among the messages of a corpus.
const FEW: usize = 100;

/// What follows a beginning of the corpus from the same address, as if its sender had seen the answer: the first bytes of
/// a Handshake packet.
const FORGED: &[u8] = &[0xe0, 0, 0, 0, 1];

/// A datagram of QUIC's.
const INITIAL: usize = 1200;

/// Protocol number of packets whose header is given (raw(7)).
const RAW: i32 = 255;

const HEADERS: usize = 28;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [to, kind, rate, seconds, network] = &arguments[..] else {
        bail!("expected TO KIND RATE SECONDS NETWORK, got {arguments:?}");
    };
    let to: SocketAddrV4 = to.parse()?;
    let (rate, seconds): (f64, f64) = (rate.parse()?, seconds.parse()?);
    let (base, bits) = network.split_once('/').context("a network")?;
    let base = u32::from(base.parse::<Ipv4Addr>()?);
    let hosts = u32::MAX.checked_shr(bits.parse()?).context("a network")?;
    let mut rng = SmallRng::seed_from_u64(7);
    let payloads = match kind.as_str() {
        "initial" => initials(to.into())?,
        "stun" => (0..HANDSHAKES).map(|_| binding_request(&mut rng)).collect(),
        "random" => (0..HANDSHAKES).map(|_| random(&mut rng)).collect(),
        _ if kind.starts_with("corpus:") => {
            corpus(Path::new(kind.trim_start_matches("corpus:")), to.into(), &mut rng)?
        }
        _ => bail!("'{kind}' is no kind of flood"),
    };
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
    let destination = SocketAddr::from(to).into();
    println!("ready");
    let began = Instant::now();
    let (mut sent, mut refused) = (0u64, 0u64);
    let is_corpus = kind.starts_with("corpus:");
    let total = if is_corpus { payloads.len() as u64 } else { (rate * seconds) as u64 };
    let mut packet = Vec::with_capacity(HEADERS + INITIAL);
    for payload in payloads.iter().cycle() {
        if sent + refused >= total || began.elapsed().as_secs_f64() > seconds * 2.0 {
            break;
        }
        let from = Ipv4Addr::from(base | rng.random_range(1..hosts));
        let port = rng.random_range(1024..=u16::MAX);
        let begins = is_corpus && payload.len() >= INITIAL && payload[0] >> 4 == 0xc;
        for payload in [&payload[..]].into_iter().chain(begins.then_some(FORGED)) {
            frame(&mut packet, from, port, to, payload);
            match socket.send_to(&packet, &destination) {
                Ok(_) => sent += 1,
                Err(_) => refused += 1,
            }
        }
        if (sent + refused) % 64 == 0 {
            let due = began + Duration::from_secs_f64((sent + refused) as f64 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    println!("{sent} sent, {refused} refused, in {:.2} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// IPv4 and UDP headers, and what they carry. The kernel fills in the first one's checksum.
fn frame(packet: &mut Vec<u8>, from: Ipv4Addr, port: u16, to: SocketAddrV4, payload: &[u8]) {
    packet.clear();
    let length = (HEADERS + payload.len()) as u16;
    packet.extend([0x45, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    packet.extend(port.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
}

/// First datagrams of as many clients.
fn initials(to: SocketAddr) -> anyhow::Result<Vec<Vec<u8>>> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Nobody));
    let mut tls = tls.with_client_cert_resolver(Arc::new(Nobody));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut settings = EndpointConfig::default();
    // As ours have it: other standards share the port.
    settings.grease_quic_bit(false);
    let mut endpoint = Endpoint::new(Arc::new(settings), None, false, None);
    let mut all = Vec::with_capacity(HANDSHAKES);
    for _ in 0..HANDSHAKES {
        let now = Instant::now();
        let (_, mut connection) = endpoint.connect(now, config.clone(), to, "punchcast")?;
        let mut buffer = Vec::with_capacity(INITIAL);
        let transmit = connection.poll_transmit(now, 1, &mut buffer).context("an Initial")?;
        buffer.truncate(transmit.size);
        all.push(buffer);
    }
    Ok(all)
}

/// Offers what our programs offer: raw public keys. No answer is ever looked at.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::General("nobody is believed".into()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("nobody is believed".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("nobody is believed".into()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Every file below a folder, once, and a few of the other kinds.
fn corpus(folder: &Path, to: SocketAddr, rng: &mut SmallRng) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.push(fs::read(path)?);
            }
        }
    }
    all.retain(|message| (1..=INITIAL).contains(&message.len()));
    all.extend(initials(to)?.into_iter().take(FEW));
    all.extend((0..FEW).map(|_| binding_request(rng)));
    Ok(all)
}

fn binding_request(rng: &mut SmallRng) -> Vec<u8> {
    let mut request = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
    let mut id = [0; 12];
    rng.fill_bytes(&mut id);
    request.extend(id);
    request
}

fn random(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..=INITIAL)];
    rng.fill_bytes(&mut bytes);
    bytes
}
