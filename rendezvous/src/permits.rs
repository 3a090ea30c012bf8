//! Who may broadcast by this rendezvous: anybody, or who is listed or shows a token; and how many from one address.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use protocol::address::household;
use protocol::link::BroadcasterId;
use protocol::signalling::Token;
use serde::{Deserialize, Serialize};

/// Shortest token, in bytes: what is guessed over a network takes longer than anybody's patience.
pub(crate) const LEAST_TOKEN: usize = 16;

/// Who may register.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Broadcasters {
    /// Anybody, or only who is named here.
    pub allow: Allow,
    /// Ids of those that may.
    pub ids: Vec<String>,
    /// A file with tokens, one a line: who shows one of them may, too.
    pub tokens: Option<PathBuf>,
    /// Most that are registered at once from one IPv4 address or IPv6 /56.
    pub per_address: usize,
}

/// Whether all may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allow {
    /// Everybody.
    #[default]
    Any,
    /// Who is listed, or shows a token.
    Listed,
}

impl Default for Broadcasters {
    fn default() -> Self {
        Self { allow: Allow::default(), ids: Vec::new(), tokens: None, per_address: 256 }
    }
}

/// Decides on registrations.
#[derive(Debug)]
pub(crate) struct Permits {
    allow: Allow,
    ids: HashSet<BroadcasterId>,
    tokens: Option<Mutex<Tokens>>,
    per_address: usize,
    registered: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The tokens of a file, as it was read last.
#[derive(Debug)]
struct Tokens {
    path: PathBuf,
    read_at: Option<SystemTime>,
    tokens: Vec<Token>,
}

/// One registration's place among those of its address; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    registered: Arc<Mutex<HashMap<IpAddr, usize>>>,
    household: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut registered = lock(&self.registered);
        if let Some(count) = registered.get_mut(&self.household) {
            *count -= 1;
            if *count == 0 {
                registered.remove(&self.household);
            }
        }
    }
}

impl Permits {
    /// As configured.
    ///
    /// # Errors
    ///
    /// In words, where an id is none, or the tokens cannot be read.
    pub(crate) fn new(config: &Broadcasters) -> Result<Self, String> {
        let id = |text: &String| {
            text.parse().map_err(|_| format!("broadcasters.ids: '{text}' is no broadcaster's id"))
        };
        let ids = config.ids.iter().map(id).collect::<Result<HashSet<_>, _>>()?;
        let tokens = match &config.tokens {
            Some(path) => {
                let mut tokens = Tokens { path: path.clone(), read_at: None, tokens: Vec::new() };
                tokens.read()?;
                Some(Mutex::new(tokens))
            }
            None => None,
        };
        if config.allow == Allow::Listed && ids.is_empty() && tokens.is_none() {
            return Err("broadcasters: only listed ones may register, and none is listed; \
                        name ids or a file of tokens, or set allow: any"
                .into());
        }
        let registered = Arc::default();
        Ok(Self { allow: config.allow, ids, tokens, per_address: config.per_address, registered })
    }

    /// Whether a broadcaster may register.
    pub(crate) fn may_register(&self, id: BroadcasterId, token: Option<&Token>) -> bool {
        if self.allow == Allow::Any || self.ids.contains(&id) {
            return true;
        }
        let (Some(tokens), Some(token)) = (&self.tokens, token) else { return false };
        let mut tokens = lock(tokens);
        tokens.refresh();
        // All of them, so that time tells nothing.
        tokens.tokens.iter().fold(false, |found, known| found | (known == token))
    }

    /// A place for a broadcaster at this address; `None` where there are too many.
    pub(crate) fn place(&self, address: IpAddr) -> Option<Place> {
        let household = household(address);
        let mut registered = lock(&self.registered);
        let count = registered.entry(household).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Place { registered: Arc::clone(&self.registered), household })
    }
}

impl Tokens {
    /// Reads the file again if it was changed. What cannot be read changes nothing.
    fn refresh(&mut self) {
        if modified(&self.path).ok() == self.read_at {
            return;
        }
        if let Err(error) = self.read() {
            tracing::warn!("{error}; the former tokens are taken");
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let failed = |error: io::Error| {
            format!("broadcasters.tokens: {} cannot be read: {error}", self.path.display())
        };
        let read_at = modified(&self.path).map_err(failed)?;
        let text = fs::read_to_string(&self.path).map_err(failed)?;
        let lines = text.lines().map(str::trim);
        let lines =
            lines.enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let token = |(number, line): (usize, &str)| {
            Token::new(line).filter(|_| line.len() >= LEAST_TOKEN).ok_or_else(|| {
                let path = self.path.display();
                let line = number + 1;
                format!("broadcasters.tokens: line {line} of {path} is no token: {LEAST_TOKEN} to 256 bytes")
            })
        };
        self.tokens = lines.map(token).collect::<Result<_, _>>()?;
        self.read_at = Some(read_at);
        Ok(())
    }
}

fn modified(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ID: BroadcasterId = BroadcasterId::new([1; 32]);
    const OTHER: BroadcasterId = BroadcasterId::new([2; 32]);
    const GOOD: &str = "a-token-of-some-length";

    #[test]
    fn anybody_may_unless_told_otherwise() {
        let permits = Permits::new(&Broadcasters::default()).expect("it is the default");
        assert!(permits.may_register(ID, None));
        let nobody = Broadcasters { allow: Allow::Listed, ..Broadcasters::default() };
        let error = Permits::new(&nobody).expect_err("nobody could register");
        assert!(error.contains("allow: any"), "{error}");
        let wrong = Broadcasters { ids: vec!["me".into()], ..Broadcasters::default() };
        assert!(Permits::new(&wrong).is_err());
    }

    #[test]
    fn who_is_listed_or_has_a_token_may() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        fs::write(&path, format!("# for the cameras\n\n{GOOD}\n")).expect("room");
        let config = Broadcasters {
            allow: Allow::Listed,
            ids: vec![ID.to_string()],
            tokens: Some(path.clone()),
            ..Broadcasters::default()
        };
        let permits = Permits::new(&config).expect("it is sound");
        let token = |text: &str| Token::new(text).expect("it is one");
        assert!(permits.may_register(ID, None));
        assert!(!permits.may_register(OTHER, None));
        assert!(permits.may_register(OTHER, Some(&token(GOOD))));
        assert!(!permits.may_register(OTHER, Some(&token("a-token-of-some-lengtH"))));
        // Another file takes effect; one that is unsound does not.
        let later = SystemTime::now() + Duration::from_secs(5);
        let rewrite = |text: &str, at| {
            fs::write(&path, text).expect("room");
            fs::File::options()
                .write(true)
                .open(&path)
                .and_then(|f| f.set_modified(at))
                .expect("ours");
        };
        rewrite("another-token-of-length\n", later);
        assert!(!permits.may_register(OTHER, Some(&token(GOOD))));
        assert!(permits.may_register(OTHER, Some(&token("another-token-of-length"))));
        rewrite("short\n", later + Duration::from_secs(5));
        assert!(permits.may_register(OTHER, Some(&token("another-token-of-length"))));
        assert!(Permits::new(&config).expect_err("line 1 is short").contains("line 1"));
    }

    #[test]
    fn one_address_has_so_many_places() {
        let config = Broadcasters { per_address: 2, ..Broadcasters::default() };
        let permits = Permits::new(&config).expect("it is sound");
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let first = permits.place(address("2001:db8:1::1"));
        let second = permits.place(address("2001:db8:1:ff::2"));
        assert!(first.is_some() && second.is_some());
        assert!(permits.place(address("2001:db8:1:3::3")).is_none(), "one household");
        assert!(permits.place(address("198.51.100.7")).is_some());
        drop(first);
        assert!(permits.place(address("2001:db8:1:3::3")).is_some());
    }
}
