//! Links that the operator minted: each with a name, and perhaps a time until which, and a number of viewers for
//! whom it opens. Kept in the state folder, by digest: who reads the file cannot use them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::link::Secret;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// The file's name in the state folder.
const NAME: &str = "links.json";

/// Most links, and bytes of a name.
const MOST_LINKS: usize = 10_000;
const MOST_NAME: usize = 100;

/// Random bytes of a minted secret.
const SECRET_BYTES: usize = 16;

/// Who comes back within so long from the same address is no further viewer: paths break.
const COMING_BACK: Duration = Duration::from_secs(600);

/// Viewers that are remembered to come back.
const MOST_REMEMBERED: usize = 20_000;

/// One minted link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Minted {
    /// What the operator calls it.
    pub(crate) name: String,
    /// BLAKE3 of its secret, in hexadecimal.
    digest: String,
    /// When it was made, in seconds since 1970.
    pub(crate) made: u64,
    /// Until when it opens.
    pub(crate) expires: Option<u64>,
    /// For how many viewers it opens.
    pub(crate) uses: Option<u32>,
    /// For how many it has.
    pub(crate) used: u32,
}

impl Minted {
    fn opens(&self, now: u64) -> bool {
        self.expires.is_none_or(|until| now < until)
    }

    fn has_uses(&self) -> bool {
        self.uses.is_none_or(|uses| self.used < uses)
    }
}

/// Why a link cannot be minted or revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinksError {
    /// The name is taken.
    #[error("there is a link named '{0}' already; revoke it first, or choose another name")]
    Taken(String),
    /// The name is none.
    #[error("a link's name has 1 to {MOST_NAME} bytes, and no control characters")]
    Name,
    /// There are too many.
    #[error("there are {MOST_LINKS} links already; revoke some")]
    TooMany,
    /// There is none of this name.
    #[error("there is no link named '{0}'")]
    Unknown(String),
    /// They cannot be kept.
    #[error("the links cannot be written to {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
}

/// All minted links.
pub(crate) struct Links {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    minted: Vec<Minted>,
    /// Who came by which link, and when.
    recent: HashMap<(String, IpAddr), Instant>,
}

impl Links {
    /// Reads what an earlier process left.
    ///
    /// # Errors
    ///
    /// Where the file is there and cannot be read, or is none of ours.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(NAME);
        let minted = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let state = State { minted, ..State::default() };
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// Mints a link. Without a name it gets one.
    pub(crate) fn mint(
        &self,
        name: Option<String>,
        lasts: Option<Duration>,
        uses: Option<u32>,
    ) -> Result<(String, Secret), LinksError> {
        let mut state = self.lock();
        let unused = |number: &usize| {
            let name = number.to_string();
            state.minted.iter().all(|minted| minted.name != name)
        };
        let name = match name {
            Some(name) => name,
            None => (1..).find(unused).unwrap_or(1).to_string(),
        };
        if name.is_empty() || name.len() > MOST_NAME || name.chars().any(char::is_control) {
            return Err(LinksError::Name);
        }
        if state.minted.iter().any(|minted| minted.name == name) {
            return Err(LinksError::Taken(name));
        }
        if state.minted.len() >= MOST_LINKS {
            return Err(LinksError::TooMany);
        }
        let bytes: [u8; SECRET_BYTES] = rand::rng().random();
        // Longer than none, and shorter than too long.
        let secret = Secret::new(bytes.to_vec()).ok_or(LinksError::TooMany)?;
        let made = seconds(SystemTime::now());
        let expires = lasts.map(|lasts| made.saturating_add(lasts.as_secs().max(1)));
        let digest = digest(&secret);
        state.minted.push(Minted { name: name.clone(), digest, made, expires, uses, used: 0 });
        if let Err(error) = self.write(&state) {
            state.minted.pop();
            return Err(error);
        }
        Ok((name, secret))
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Minted> {
        self.lock().minted.clone()
    }

    /// A link opens no more.
    pub(crate) fn revoke(&self, name: &str) -> Result<(), LinksError> {
        let mut state = self.lock();
        let at = state.minted.iter().position(|minted| minted.name == name);
        let at = at.ok_or_else(|| LinksError::Unknown(name.to_owned()))?;
        let revoked = state.minted.remove(at);
        if let Err(error) = self.write(&state) {
            state.minted.insert(at, revoked);
            return Err(error);
        }
        Ok(())
    }

    /// Whether a secret is one of a link that still opens, for whoever came by it before at least.
    pub(crate) fn knows(&self, shown: &Secret) -> bool {
        let now = seconds(SystemTime::now());
        // Of a digest, what a comparison's time tells is of no use.
        let digest = digest(shown);
        self.lock().minted.iter().any(|minted| minted.digest == digest && minted.opens(now))
    }

    /// A viewer enters by a link. Returns the link's name, or `None` where it does not open.
    pub(crate) fn enter(&self, shown: &Secret, from: IpAddr, now: Instant) -> Option<String> {
        let wall = seconds(SystemTime::now());
        let digest = digest(shown);
        let mut state = self.lock();
        let State { minted, recent } = &mut *state;
        let link =
            minted.iter_mut().find(|minted| minted.digest == digest && minted.opens(wall))?;
        let is_back = |at: &Instant| now.saturating_duration_since(*at) < COMING_BACK;
        let key = (digest, from);
        if !recent.get(&key).is_some_and(is_back) {
            if !link.has_uses() {
                return None;
            }
            link.used = link.used.saturating_add(1);
        }
        let (name, is_counted) = (link.name.clone(), link.uses.is_some());
        if recent.len() >= MOST_REMEMBERED {
            recent.retain(|_, at| is_back(at));
        }
        if recent.len() < MOST_REMEMBERED {
            recent.insert(key, now);
        }
        if is_counted && let Err(error) = self.write(&state) {
            tracing::warn!("{error}");
        }
        Some(name)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whole or not at all, and for the owner alone.
    fn write(&self, state: &State) -> Result<(), LinksError> {
        let failed = |reason| LinksError::Write { path: self.path.clone(), reason };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let text = serde_json::to_vec_pretty(&state.minted).map_err(|e| failed(e.into()))?;
        // Temporary files are their owner's alone.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn digest(secret: &Secret) -> String {
    blake3::hash(secret.reveal().as_bytes()).to_hex().to_string()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 8));

    #[test]
    fn links_outlive_the_process_and_tell_nobody_their_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let links = Links::open(folder.path()).expect("empty");
        let (name, secret) = links.mint(Some("grandma".into()), None, Some(2)).expect("minted");
        assert_eq!(name, "grandma");
        assert!(links.enter(&secret, HOME, Instant::now()).is_some());
        let file = folder.path().join(NAME);
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&file).expect("text");
        assert!(text.contains("grandma") && !text.contains(&secret.reveal()), "{text}");
        let again = Links::open(folder.path()).expect("readable");
        assert_eq!(again.list(), links.list());
        assert_eq!(again.list()[0].used, 1);
        assert!(again.knows(&secret));
        fs::write(&file, "[{}]").expect("room");
        Links::open(folder.path()).map(|_| ()).expect_err("that is none of ours");
    }

    #[test]
    fn links_open_for_so_many_and_for_so_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let links = Links::open(folder.path()).expect("empty");
        let now = Instant::now();
        let (_, once) = links.mint(None, None, Some(1)).expect("minted");
        assert_eq!(links.enter(&once, HOME, now).as_deref(), Some("1"));
        assert_eq!(links.enter(&once, ELSEWHERE, now), None, "it was for one");
        // Who was there comes back after its path broke.
        assert!(links.enter(&once, HOME, now + COMING_BACK / 2).is_some());
        assert_eq!(links.enter(&once, HOME, now + COMING_BACK * 2), None);
        let (name, short) = links.mint(None, Some(Duration::from_millis(1)), None).expect("minted");
        assert_eq!(name, "2");
        assert!(links.knows(&short));
        links.lock().minted[1].expires = Some(1);
        assert!(!links.knows(&short) && links.enter(&short, HOME, now).is_none(), "it expired");
        links.revoke("1").expect("it is there");
        assert!(!links.knows(&once));
        assert!(matches!(links.revoke("1"), Err(LinksError::Unknown(_))));
        for name in ["", "a\nb", &"n".repeat(101)] {
            let refused = links.mint(Some(name.into()), None, None);
            assert!(matches!(refused, Err(LinksError::Name)), "{name:?}");
        }
        assert!(matches!(links.mint(Some("2".into()), None, None), Err(LinksError::Taken(_))));
    }
}
