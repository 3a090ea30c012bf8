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
    /// Most that are registered at once from one IPv4 address or IPv6 /56, beside those that are named here.
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
    registered: Arc<Mutex<Registered>>,
}

/// As what a broadcaster may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its id is listed, or it showed a token.
    Named,
    /// It is one of all.
    Anonymous,
}

/// The anonymous ones of each household, each with how many connections it has: one that registers again has
/// two for a moment.
type Registered = HashMap<IpAddr, HashMap<BroadcasterId, usize>>;

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
    /// `None` for one that takes none.
    of: Option<(IpAddr, BroadcasterId)>,
    registered: Arc<Mutex<Registered>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((household, id)) = self.of else { return };
        let mut registered = lock(&self.registered);
        let Some(ids) = registered.get_mut(&household) else { return };
        if let Some(connections) = ids.get_mut(&id) {
            *connections -= 1;
            if *connections == 0 {
                ids.remove(&id);
            }
        }
        if ids.is_empty() {
            registered.remove(&household);
        }
    }
}

impl Permits {
    /// As configured.
    ///
    /// # Errors
    ///
    /// In words, where an id is none, the tokens cannot be read, or nobody could register.
    pub(crate) fn new(config: &Broadcasters) -> Result<Self, String> {
        if config.per_address == 0 {
            return Err("broadcasters.per_address: with 0 nobody who is not named could register; give 1 or \
                        more, or set allow: listed to let in only who is named"
                .into());
        }
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

    /// As what a broadcaster may register, if it may.
    pub(crate) fn standing(&self, id: BroadcasterId, token: Option<&Token>) -> Option<Standing> {
        if self.ids.contains(&id) || token.is_some_and(|token| self.knows(token)) {
            return Some(Standing::Named);
        }
        (self.allow == Allow::Any).then_some(Standing::Anonymous)
    }

    fn knows(&self, token: &Token) -> bool {
        let Some(tokens) = &self.tokens else { return false };
        let mut tokens = lock(tokens);
        tokens.refresh();
        // All of them, so that time tells nothing.
        tokens.tokens.iter().fold(false, |found, known| found | (known == token))
    }

    /// A place for a broadcaster at this address; `None` where there are too many. Who is named takes none.
    pub(crate) fn place(
        &self,
        address: IpAddr,
        id: BroadcasterId,
        standing: Standing,
    ) -> Option<Place> {
        let registered = Arc::clone(&self.registered);
        if standing == Standing::Named {
            return Some(Place { of: None, registered });
        }
        let household = household(address);
        let mut all = lock(&self.registered);
        let ids = all.entry(household).or_default();
        if ids.len() >= self.per_address && !ids.contains_key(&id) {
            return None;
        }
        *ids.entry(id).or_default() += 1;
        Some(Place { of: Some((household, id)), registered })
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
        assert_eq!(permits.standing(ID, None), Some(Standing::Anonymous));
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
        assert_eq!(permits.standing(ID, None), Some(Standing::Named));
        assert_eq!(permits.standing(OTHER, None), None);
        assert_eq!(permits.standing(OTHER, Some(&token(GOOD))), Some(Standing::Named));
        assert_eq!(permits.standing(OTHER, Some(&token("a-token-of-some-lengtH"))), None);
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
        assert_eq!(permits.standing(OTHER, Some(&token(GOOD))), None);
        assert_eq!(
            permits.standing(OTHER, Some(&token("another-token-of-length"))),
            Some(Standing::Named)
        );
        rewrite("short\n", later + Duration::from_secs(5));
        assert_eq!(
            permits.standing(OTHER, Some(&token("another-token-of-length"))),
            Some(Standing::Named)
        );
        assert!(Permits::new(&config).expect_err("line 1 is short").contains("line 1"));
    }

    #[test]
    fn one_address_has_so_many_places() {
        let config = Broadcasters { per_address: 2, ..Broadcasters::default() };
        let permits = Permits::new(&config).expect("it is sound");
        let place = |text: &str, id: u8| {
            let address = text.parse().expect("an address");
            permits.place(address, BroadcasterId::new([id; 32]), Standing::Anonymous)
        };
        let first = place("2001:db8:1::1", 1);
        let second = place("2001:db8:1:ff::2", 2);
        assert!(first.is_some() && second.is_some());
        assert!(place("2001:db8:1:3::3", 3).is_none(), "one household");
        let elsewhere = place("198.51.100.7", 3);
        assert!(elsewhere.is_some());
        // One that registers again has the place of its former connection, and keeps it when that goes.
        let again = place("2001:db8:1::9", 1);
        assert!(again.is_some());
        drop(first);
        assert!(place("2001:db8:1:3::3", 3).is_none(), "it is registered still");
        drop(again);
        assert!(place("2001:db8:1:3::3", 3).is_some());
        drop((second, elsewhere));
        assert!(lock(&permits.registered).is_empty(), "nothing is left of those that went");
    }

    #[test]
    fn who_is_named_takes_no_place_of_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        fs::write(&path, format!("{GOOD}\n")).expect("room");
        let config = Broadcasters {
            ids: vec![ID.to_string()],
            tokens: Some(path),
            per_address: 1,
            ..Broadcasters::default()
        };
        let permits = Permits::new(&config).expect("it is sound");
        let token = |text: &str| Token::new(text).expect("it is one");
        let standing = |id, token: Option<&Token>| permits.standing(id, token).expect("all may");
        assert_eq!(standing(ID, None), Standing::Named);
        assert_eq!(standing(OTHER, Some(&token(GOOD))), Standing::Named);
        assert_eq!(standing(OTHER, Some(&token("a-token-of-some-lengtH"))), Standing::Anonymous);
        let home = "198.51.100.7".parse().expect("an address");
        let stranger = permits.place(home, OTHER, Standing::Anonymous);
        assert!(stranger.is_some());
        // The address is full, and has room for any number of named ones.
        assert!(permits.place(home, BroadcasterId::new([3; 32]), Standing::Anonymous).is_none());
        let named =
            [1, 4, 5].map(|id| permits.place(home, BroadcasterId::new([id; 32]), Standing::Named));
        assert!(named.iter().all(Option::is_some));
        drop(stranger);
        assert!(permits.place(home, BroadcasterId::new([3; 32]), Standing::Anonymous).is_some());
    }

    #[test]
    fn an_address_without_any_place_is_refused() {
        let none = Broadcasters { per_address: 0, ..Broadcasters::default() };
        let error = Permits::new(&none).expect_err("nobody could register");
        assert!(error.contains("per_address") && error.contains("1 or more"), "{error}");
    }
}
