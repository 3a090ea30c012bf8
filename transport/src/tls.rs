//! TLS 1.3 with raw public keys (RFC 7250): a broadcaster shows its key, a viewer pins it, the
//! rendezvous learns it. There are no certificates and no authorities.

use std::sync::{Arc, OnceLock};

use protocol::link::BroadcasterId;
use protocol::tag::{EXPORTER_LABEL, TagKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use zeroize::Zeroizing;

use crate::identity::{Identity, id_from_spki};

/// The name said in handshakes, where TLS wants one. It means nothing.
pub(crate) const SERVER_NAME: &str = "punchcast";

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// What a client expects of the server's key, and what it got.
#[derive(Debug, Default)]
pub struct Pin {
    expected: Option<BroadcasterId>,
    presented: OnceLock<Option<BroadcasterId>>,
}

impl Pin {
    /// Only this key.
    pub fn to(expected: BroadcasterId) -> Arc<Self> {
        Arc::new(Self { expected: Some(expected), presented: OnceLock::new() })
    }

    /// Any key: for the rendezvous, which is trusted with nothing.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Whether the server proved to hold another key than the one expected.
    pub fn was_mismatched(&self) -> bool {
        match (self.expected, self.presented.get()) {
            (Some(expected), Some(presented)) => *presented != Some(expected),
            _ => false,
        }
    }
}

/// A client that pins the server's key, and shows `identity`'s where it has one.
pub(crate) fn client(pin: Arc<Pin>, identity: Option<&Identity>, alpn: &[u8]) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier { pin }));
    let mut config = match identity {
        Some(identity) => {
            let resolver = AlwaysResolvesClientRawPublicKeys::new(identity.certified_key());
            builder.with_client_cert_resolver(Arc::new(resolver) as Arc<dyn ResolvesClientCert>)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// A server that shows `identity`'s key. With `ask_client` it takes a client's key, if it has one.
pub(crate) fn server(identity: &Identity, ask_client: bool, alpn: &[u8]) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3");
    let builder = if ask_client {
        builder.with_client_cert_verifier(Arc::new(AnyClient))
    } else {
        builder.with_no_client_auth()
    };
    let resolver = AlwaysResolvesServerRawPublicKeys::new(identity.certified_key());
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    // Nobody comes back with a ticket: each connection is of a new introduction, or pins a key.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// What a viewer's tags are made with: both ends of its connection to the broadcaster, and nobody else, derive it.
pub fn viewer_tag_key(connection: &quinn::Connection) -> TagKey {
    let mut bytes = Zeroizing::new([0; 16]);
    let exported = connection.export_keying_material(&mut *bytes, EXPORTER_LABEL, b"");
    exported.expect("TLS exports sixteen bytes of an established connection");
    TagKey::new(&bytes)
}

/// The key that the peer of an established connection proved to hold.
pub fn peer_id(connection: &quinn::Connection) -> Option<BroadcasterId> {
    let identity = connection.peer_identity()?;
    let keys = identity.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    id_from_spki(keys.first()?)
}

fn check_signature(
    message: &[u8],
    key: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    let key = SubjectPublicKeyInfoDer::from(key.as_ref());
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

fn no_tls12() -> Error {
    Error::General("only TLS 1.3 is spoken".into())
}

#[derive(Debug)]
struct PinVerifier {
    pin: Arc<Pin>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = id_from_spki(key);
        let _ = self.pin.presented.set(presented);
        match self.pin.expected {
            Some(expected) if presented != Some(expected) => {
                Err(rustls::CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Takes any client's key: what it may do follows from which key it is.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match id_from_spki(key) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(rustls::CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
