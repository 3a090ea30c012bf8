//! A broadcaster's Ed25519 key: made on first run, kept in its state folder, readable by its owner
//! alone. Its public half is the broadcaster's id.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::link::BroadcasterId;
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Name of the key file within the state folder.
const KEY_FILE: &str = "broadcaster.key";

/// What stands before the 32 key bytes in an Ed25519 SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder or file cannot be read or written.
    #[error("cannot use the state folder's {path}: {source}; name another with --state", path = path.display())]
    Io {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is no Ed25519 key.
    #[error("{path} holds no Ed25519 key; move it away to get a new one (and new links)", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// A key pair.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    id: BroadcasterId,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// The key kept in `folder`, made if there is none.
    pub fn load_or_create(folder: &Path) -> Result<Self, IdentityError> {
        let path = folder.join(KEY_FILE);
        let io_error = |source| IdentityError::Io { path: path.clone(), source };
        let der = match std::fs::read(&path) {
            Ok(der) => der,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(folder).map_err(io_error)?;
                let der = generate();
                write_private(&path, &der).map_err(io_error)?;
                der
            }
            Err(error) => return Err(io_error(error)),
        };
        Self::from_pkcs8(der).ok_or(IdentityError::Damaged { path })
    }

    /// A key for this process alone.
    pub fn ephemeral() -> Self {
        Self::from_pkcs8(generate()).expect("a key just made is whole")
    }

    fn from_pkcs8(der: Vec<u8>) -> Option<Self> {
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).ok()?;
        let spki = key.public_key()?.to_vec();
        let id = id_from_spki(&spki)?;
        let key = CertifiedKey::new(vec![CertificateDer::from(spki)], key);
        Some(Self { key: Arc::new(key), id })
    }

    /// The id that this key is.
    pub fn id(&self) -> BroadcasterId {
        self.id
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

/// The id in a raw public key as TLS carries it (RFC 7250).
pub(crate) fn id_from_spki(spki: &[u8]) -> Option<BroadcasterId> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    Some(BroadcasterId::new(key.try_into().ok()?))
}

fn generate() -> Vec<u8> {
    aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
        .expect("the system's random numbers are there")
        .as_ref()
        .to_vec()
}

/// Writes a file for its owner alone, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_and_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("deep/state");
        let first = Identity::load_or_create(&state).expect("made");
        let again = Identity::load_or_create(&state).expect("read");
        assert_eq!(first.id(), again.id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(state.join(KEY_FILE)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_ne!(Identity::ephemeral().id(), first.id());
    }

    #[test]
    fn a_damaged_key_is_said_to_be() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(KEY_FILE), b"not a key").expect("written");
        let error = Identity::load_or_create(folder.path()).expect_err("damaged");
        assert!(error.to_string().contains("move it away"), "{error}");
    }
}
