//! Links that the operator minted: each with a name, and perhaps a time until which, and a number of viewers for
//! whom it opens. Kept in the state folder, by digest: who reads the file cannot use them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::link::Secret;
use rand::RngExt;

use crate::minted::{Kept, Minted};
use crate::moment::Moment;

/// The file's name in the state folder.
const NAME: &str = "links.json";

/// Most links, and bytes of a name.
const MOST_LINKS: usize = 10_000;
const MOST_NAME: usize = 100;

/// Random bytes of a minted secret.
const SECRET_BYTES: usize = 16;

/// Who comes back within so long from the same address is no further viewer: paths break, and people take pauses.
const COMING_BACK: Duration = Duration::from_secs(12 * 3600);

/// Viewers that are remembered to come back; half of them at most by links that open for any number.
const MOST_REMEMBERED: usize = 20_000;

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
    #[error(
        "there is no link named '{0}'; punchcast-broadcaster link list shows those that there are"
    )]
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
    /// The version that the file holds.
    written: Mutex<u64>,
}

#[derive(Default)]
struct State {
    kept: Vec<Kept>,
    /// Grows with each change of what is kept.
    version: u64,
    /// Names of revoked links that the file may still hold.
    unwritten: Vec<String>,
    /// Who came by which link, and when ([`Moment::running`]).
    recent: HashMap<(String, IpAddr), Duration>,
}

impl State {
    /// Forgets links that ended long ago.
    fn purge(&mut self, now: Moment) {
        let before = self.kept.len();
        self.kept.retain(|link| !link.is_forgotten(now));
        self.version += u64::from(self.kept.len() < before);
    }

    fn is_back(&self, digest: &str, comer: Comer, now: Moment) -> bool {
        let came = comer.from.and_then(|from| self.recent.get(&(digest.to_owned(), from)));
        comer.has_entered || came.is_some_and(|at| is_recent(*at, now))
    }
}

fn is_recent(at: Duration, now: Moment) -> bool {
    now.running.saturating_sub(at) < COMING_BACK
}

/// Who shows a link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Comer {
    /// The household, where that is known.
    pub(crate) from: Option<IpAddr>,
    /// Whether its session entered by this link before.
    pub(crate) has_entered: bool,
}

/// A viewer's entry by a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The link's name.
    pub(crate) name: String,
    /// Whether the file is to be written ([`Links::save`]).
    pub(crate) is_to_be_saved: bool,
}

impl Links {
    /// Reads what an earlier process left.
    ///
    /// # Errors
    ///
    /// Where the file is there and cannot be read, or is none of ours.
    pub(crate) fn open(state: &Path, now: Moment) -> io::Result<Self> {
        let path = state.join(NAME);
        let minted: Vec<Minted> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let kept = minted.into_iter().map(|minted| Kept::new(minted, now)).collect();
        let mut state = State { kept, ..State::default() };
        state.purge(now);
        Ok(Self { path, state: Mutex::new(state), written: Mutex::default() })
    }

    /// Mints a link. Without a name it gets one. Blocks while it is written.
    pub(crate) fn mint(
        &self,
        name: Option<String>,
        lasts: Option<Duration>,
        uses: Option<u32>,
        now: Moment,
    ) -> Result<(String, Secret), LinksError> {
        let mut state = self.lock();
        state.purge(now);
        let unused = |number: &usize| {
            let name = number.to_string();
            state.kept.iter().all(|link| link.minted.name != name)
        };
        let name = match name {
            Some(name) => name,
            None => (1..).find(unused).unwrap_or(1).to_string(),
        };
        if name.is_empty() || name.len() > MOST_NAME || name.chars().any(char::is_control) {
            return Err(LinksError::Name);
        }
        if state.kept.iter().any(|link| link.minted.name == name) {
            return Err(LinksError::Taken(name));
        }
        if state.kept.len() >= MOST_LINKS {
            return Err(LinksError::TooMany);
        }
        let bytes: [u8; SECRET_BYTES] = rand::rng().random();
        // Longer than none, and shorter than too long.
        let secret = Secret::new(bytes.to_vec()).ok_or(LinksError::TooMany)?;
        let made = now.wall;
        let expires = lasts.map(|lasts| made.saturating_add(lasts.as_secs().max(1)));
        let digest = digest(&secret);
        let minted =
            Minted { name: name.clone(), digest, made, expires, uses, used: 0, used_at: None };
        state.kept.push(Kept::new(minted, now));
        state.version += 1;
        drop(state);
        if let Err(error) = self.save() {
            let mut state = self.lock();
            state.kept.retain(|link| link.minted.name != name);
            state.version += 1;
            return Err(error);
        }
        Ok((name, secret))
    }

    /// All of them, and for how long each opens.
    pub(crate) fn list(&self, now: Moment) -> Vec<(Minted, Option<Duration>)> {
        let mut state = self.lock();
        state.purge(now);
        state.kept.iter().map(|link| (link.minted.clone(), link.opens_for(now))).collect()
    }

    /// A link opens no more, from when this returns. That outlives the process once it is written ([`Links::save`]);
    /// until then, it can be revoked again.
    pub(crate) fn revoke(&self, name: &str) -> Result<(), LinksError> {
        let mut state = self.lock();
        match state.kept.iter().position(|link| link.minted.name == name) {
            Some(at) => {
                state.kept.remove(at);
                state.version += 1;
                if !state.unwritten.iter().any(|other| other == name) {
                    state.unwritten.push(name.to_owned());
                }
                Ok(())
            }
            None if state.unwritten.iter().any(|other| other == name) => Ok(()),
            None => Err(LinksError::Unknown(name.to_owned())),
        }
    }

    /// The name of the link that a secret is of, whether it still opens or not.
    pub(crate) fn named(&self, shown: &Secret) -> Option<String> {
        let digest = digest(shown);
        let state = self.lock();
        let link = state.kept.iter().find(|link| link.minted.digest == digest)?;
        Some(link.minted.name.clone())
    }

    /// Whether a secret is of a link that opens for this viewer: one that is not over, and has uses left or was used
    /// from there lately. Nothing is counted.
    pub(crate) fn opens(&self, shown: &Secret, comer: Comer, now: Moment) -> bool {
        // Of a digest, what a comparison's time tells is of no use.
        let digest = digest(shown);
        let state = self.lock();
        let link = state.kept.iter().find(|link| link.minted.digest == digest);
        link.is_some_and(|link| {
            !link.is_over(now) && (link.minted.has_uses() || state.is_back(&digest, comer, now))
        })
    }

    /// A viewer enters by a link, or `None` where that does not open. Counts as a use, once for each household within
    /// [`COMING_BACK`]; where that is not known, once for each session.
    pub(crate) fn enter(&self, shown: &Secret, comer: Comer, now: Moment) -> Option<Entry> {
        let digest = digest(shown);
        let mut state = self.lock();
        let is_back = state.is_back(&digest, comer, now);
        let State { kept, recent, version, .. } = &mut *state;
        let mut those = kept.iter_mut();
        let link = those.find(|link| link.minted.digest == digest && !link.is_over(now))?;
        let is_counted = link.minted.uses.is_some();
        if !is_back {
            if !link.minted.has_uses() {
                return None;
            }
            link.is_used(now);
            *version += u64::from(is_counted);
        }
        let entry =
            Entry { name: link.minted.name.clone(), is_to_be_saved: is_counted && !is_back };
        if let Some(from) = comer.from {
            let most = if is_counted { MOST_REMEMBERED } else { MOST_REMEMBERED / 2 };
            if recent.len() >= most {
                recent.retain(|_, at| is_recent(*at, now));
            }
            let key = (digest, from);
            if recent.len() < most || recent.contains_key(&key) {
                recent.insert(key, now.running);
            }
        }
        Some(entry)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was changed, whole or not at all, and for the owner alone. Blocks; who only looks links up
    /// does not wait for it.
    pub(crate) fn save(&self) -> Result<(), LinksError> {
        // One after the other, and each the latest.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, version) = {
            let state = self.lock();
            if *written == state.version {
                return Ok(());
            }
            let minted: Vec<&Minted> = state.kept.iter().map(|link| &link.minted).collect();
            (serde_json::to_vec_pretty(&minted), state.version)
        };
        let failed = |reason| LinksError::Write { path: self.path.clone(), reason };
        let text = text.map_err(|error| failed(error.into()))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        // Temporary files are their owner's alone.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        *written = version;
        let mut state = self.lock();
        if state.version == version {
            state.unwritten.clear();
        }
        Ok(())
    }
}

fn digest(secret: &Secret) -> String {
    blake3::hash(secret.reveal().as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::minted::FORGOTTEN_AFTER;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 8));

    fn comer(from: IpAddr) -> Comer {
        Comer { from: Some(from), has_entered: false }
    }

    /// When tests begin.
    const NOW: Moment = Moment { wall: 1_800_000_000, running: Duration::from_secs(500) };

    /// So much later by both clocks.
    fn after(later: Duration) -> Moment {
        Moment { wall: NOW.wall + later.as_secs(), running: NOW.running + later }
    }

    fn names(links: &Links, now: Moment) -> Vec<String> {
        links.list(now).into_iter().map(|(minted, _)| minted.name).collect()
    }

    #[test]
    fn links_outlive_the_process_and_tell_nobody_their_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let links = Links::open(folder.path(), NOW).expect("empty");
        let (name, secret) =
            links.mint(Some("grandma".into()), None, Some(2), NOW).expect("minted");
        assert_eq!(name, "grandma");
        let entry = links.enter(&secret, comer(HOME), NOW).expect("it opens");
        assert!(entry.is_to_be_saved);
        links.save().expect("room");
        let file = folder.path().join(NAME);
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&file).expect("text");
        assert!(text.contains("grandma") && !text.contains(&secret.reveal()), "{text}");
        let again = Links::open(folder.path(), NOW).expect("readable");
        assert_eq!(again.list(NOW), links.list(NOW));
        assert_eq!(again.list(NOW)[0].0.used, 1);
        assert!(again.opens(&secret, Comer::default(), NOW));
        fs::write(&file, "[{}]").expect("room");
        Links::open(folder.path(), NOW).map(|_| ()).expect_err("that is none of ours");
    }

    #[test]
    fn links_open_for_so_many_and_for_so_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let links = Links::open(folder.path(), NOW).expect("empty");
        let now = NOW;
        let (_, once) = links.mint(None, None, Some(1), NOW).expect("minted");
        let enter = |secret, comer, now| links.enter(secret, comer, now).map(|entry| entry.name);
        let (home, elsewhere) = (comer(HOME), comer(ELSEWHERE));
        assert!(links.opens(&once, elsewhere, now));
        assert_eq!(enter(&once, home, now).as_deref(), Some("1"));
        // It was for one, and opens nothing for another, nor for who comes from nowhere that is known.
        for from in [elsewhere, Comer::default()] {
            assert_eq!(enter(&once, from, now), None);
            assert!(!links.opens(&once, from, now));
        }
        // A session that entered goes on to use it, wherever it comes from.
        assert!(links.opens(&once, Comer { from: None, has_entered: true }, now));
        // Who was there comes back after its path broke, and that is no further use.
        let later = after(COMING_BACK / 2);
        assert!(links.opens(&once, home, later));
        let back = links.enter(&once, home, later).expect("it comes back");
        assert!(!back.is_to_be_saved && links.list(NOW)[0].0.used == 1);
        assert_eq!(enter(&once, home, after(COMING_BACK * 2)), None);
        assert!(!links.opens(&once, home, after(COMING_BACK * 2)));
        let (name, short) =
            links.mint(None, Some(Duration::from_millis(1)), None, NOW).expect("minted");
        assert_eq!(name, "2");
        assert!(links.opens(&short, home, now) && enter(&short, home, now).is_some());
        let later = after(Duration::from_secs(1));
        assert!(
            !links.opens(&short, home, later) && enter(&short, home, later).is_none(),
            "it expired"
        );
        assert_eq!(links.named(&short).as_deref(), Some("2"));
        links.revoke("1").expect("it is there");
        assert!(!links.opens(&once, home, now) && links.named(&once).is_none());
        links.save().expect("room");
        assert!(matches!(links.revoke("1"), Err(LinksError::Unknown(_))));
        for name in ["", "a\nb", &"n".repeat(101)] {
            let refused = links.mint(Some(name.into()), None, None, NOW);
            assert!(matches!(refused, Err(LinksError::Name)), "{name:?}");
        }
        assert!(matches!(links.mint(Some("2".into()), None, None, NOW), Err(LinksError::Taken(_))));
    }

    #[test]
    fn a_revoked_link_opens_no_more_although_that_cannot_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        fs::create_dir(&state).expect("room");
        let links = Links::open(&state, NOW).expect("empty");
        let now = NOW;
        let (_, secret) = links.mint(Some("grandma".into()), None, None, NOW).expect("minted");
        // As a full disk would, or one that is gone.
        let away = folder.path().join("away");
        fs::rename(&state, &away).expect("one disk");
        links.revoke("grandma").expect("it is there");
        assert!(!links.opens(&secret, comer(HOME), now) && links.named(&secret).is_none());
        assert!(matches!(links.save(), Err(LinksError::Write { .. })));
        // The file still holds it.
        assert!(Links::open(&away, NOW).expect("readable").opens(&secret, comer(HOME), now));
        fs::rename(&away, &state).expect("one disk");
        links.revoke("grandma").expect("again, as it says");
        links.save().expect("room");
        assert!(Links::open(&state, NOW).expect("readable").list(NOW).is_empty());
        assert!(matches!(links.revoke("grandma"), Err(LinksError::Unknown(_))));
    }

    #[test]
    fn links_are_forgotten_long_after_their_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let links = Links::open(folder.path(), NOW).expect("empty");
        let day = Duration::from_secs(24 * 3600);
        let mint = |name: &str, lasts, uses| {
            links.mint(Some(name.into()), lasts, Some(uses), NOW).expect("minted").1
        };
        mint("expired", Some(day), 1);
        let [used_up, used] =
            [("used up", 1), ("used", 2)].map(|(name, uses)| mint(name, None, uses));
        mint("lasting", None, 1);
        mint("just expired", Some(3 * day), 1);
        for secret in [used_up, used] {
            assert!(links.enter(&secret, comer(HOME), NOW).is_some());
        }
        links.save().expect("room");
        // Neither a clock that is set ahead nor one that is set back makes any of them go or come.
        let years = Moment { wall: NOW.wall + 400_000_000, running: NOW.running };
        assert_eq!(links.list(years).len(), 5);
        let kept = ["used", "lasting", "just expired"];
        let later = after(FORGOTTEN_AFTER + 2 * day);
        let again = Links::open(folder.path(), later).expect("readable");
        assert_eq!(names(&again, later), kept);
        assert_eq!(names(&links, Moment { wall: NOW.wall, ..later }), kept);
        links.save().expect("room");
        let text = fs::read_to_string(folder.path().join(NAME)).expect("text");
        assert!(!text.contains("used up"), "{text}");
    }

    #[test]
    fn a_clock_that_is_set_back_opens_no_link_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let links = Links::open(folder.path(), NOW).expect("empty");
        let lasts = Duration::from_secs(2);
        let (_, short) = links.mint(None, Some(lasts), None, NOW).expect("minted");
        let opens = |now| {
            let opens = links.opens(&short, comer(HOME), now);
            assert_eq!(links.enter(&short, comer(HOME), now).is_some(), opens);
            opens
        };
        let back = |moment: Moment| Moment { wall: NOW.wall - 3600, ..moment };
        assert!(opens(NOW) && opens(back(NOW)));
        assert!(!opens(after(lasts)) && !opens(back(after(lasts))));
        assert_eq!(links.list(back(after(lasts)))[0].1, Some(Duration::ZERO));
    }

    #[test]
    fn links_for_any_number_do_not_push_out_who_came_by_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let links = Links::open(folder.path(), NOW).expect("empty");
        let now = NOW;
        let (_, open) = links.mint(None, None, None, NOW).expect("minted");
        let (_, once) = links.mint(None, None, Some(1), NOW).expect("minted");
        for at in 0..MOST_REMEMBERED as u32 {
            let from = IpAddr::from((0x0a00_0000 + at).to_be_bytes());
            assert!(links.enter(&open, comer(from), now).is_some());
        }
        assert_eq!(links.lock().recent.len(), MOST_REMEMBERED / 2);
        assert!(links.enter(&once, comer(HOME), now).is_some());
        assert!(links.enter(&once, comer(HOME), now).is_some(), "it is remembered");
        // Half a day later there is room.
        let later = after(COMING_BACK);
        assert!(links.enter(&open, comer(ELSEWHERE), later).is_some());
        assert_eq!(links.lock().recent.len(), 1);
    }
}
