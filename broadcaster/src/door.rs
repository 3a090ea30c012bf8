//! The door, where the operator admits each viewer: who is not known knocks, and waits for as long as it likes.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::address::household;
use protocol::channel::ViewerId;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Viewers that may wait at once: of one household, and in all.
const MOST_OF_ONE: usize = 4;
const MOST_KNOCKS: usize = 1_000;

/// Households that are remembered. Beyond, a viewer that comes back knocks again.
const MOST_KNOWN: usize = 20_000;

/// Who waits, and who was let in.
#[derive(Debug, Default)]
pub(crate) struct Door {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    knocks: BTreeMap<ViewerId, Knock>,
    /// Where viewers were let in from: a path that broke is no reason to knock again.
    known: HashSet<IpAddr>,
}

#[derive(Debug)]
struct Knock {
    remote: SocketAddr,
    path: &'static str,
    since: Instant,
    word: oneshot::Sender<bool>,
}

/// A viewer's wait at the door; over when dropped.
#[derive(Debug)]
pub(crate) struct Knocking {
    viewer: ViewerId,
    word: oneshot::Receiver<bool>,
    door: Arc<Door>,
}

impl Knocking {
    /// Whether it is let in, once the operator said so.
    pub(crate) async fn word(&mut self) -> bool {
        // The door lasts as long as its broadcaster.
        (&mut self.word).await.unwrap_or(false)
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        self.door.lock().knocks.remove(&self.viewer);
    }
}

impl Door {
    /// Whether a viewer from this address was let in before.
    pub(crate) fn knows(&self, address: IpAddr) -> bool {
        self.lock().known.contains(&household(address))
    }

    /// A viewer knocks. `None` where too many do.
    pub(crate) fn knock(
        self: &Arc<Self>,
        viewer: ViewerId,
        remote: SocketAddr,
        path: &'static str,
    ) -> Option<Knocking> {
        let mut state = self.lock();
        let home = household(remote.ip());
        let neighbours =
            state.knocks.values().filter(|knock| household(knock.remote.ip()) == home).count();
        if neighbours >= MOST_OF_ONE || state.knocks.len() >= MOST_KNOCKS {
            return None;
        }
        let (told, word) = oneshot::channel();
        state.knocks.insert(viewer, Knock { remote, path, since: Instant::now(), word: told });
        Some(Knocking { viewer, word, door: Arc::clone(self) })
    }

    /// Lets in who knocks, and whoever comes from its address. False where nobody of this number waits.
    pub(crate) fn admit(&self, viewer: ViewerId) -> bool {
        let mut state = self.lock();
        let Some(Knock { remote, word, .. }) = state.knocks.remove(&viewer) else { return false };
        if state.known.len() < MOST_KNOWN {
            state.known.insert(household(remote.ip()));
        }
        word.send(true).is_ok()
    }

    /// Sends away who knocks. Where it came from, if somebody of this number waits.
    pub(crate) fn turn_away(&self, viewer: ViewerId) -> Option<IpAddr> {
        let Knock { remote, word, .. } = self.lock().knocks.remove(&viewer)?;
        // It may have gone by itself.
        let _ = word.send(false);
        Some(remote.ip())
    }

    /// Nobody from this address is known any more.
    pub(crate) fn forget(&self, address: IpAddr) {
        self.lock().known.remove(&household(address));
    }

    /// Who waits, as the operator sees it.
    pub(crate) fn shown(&self) -> Vec<Value> {
        let state = self.lock();
        let shown = state.knocks.iter().map(|(viewer, Knock { remote, path, since, .. })| {
            json!({
                "viewer": viewer.to_string(),
                "state": "knocking",
                "path": path,
                "remote": remote.to_string(),
                "since_seconds": since.elapsed().as_secs_f64(),
            })
        });
        shown.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn who_knocks_is_let_in_or_sent_away() {
        let door = Arc::<Door>::default();
        let (home, elsewhere) = (at("198.51.100.7:5000"), at("198.51.100.8:5000"));
        let mut first = door.knock(ViewerId(1), home, "reflexive").expect("room");
        let mut second = door.knock(ViewerId(2), elsewhere, "relay").expect("room");
        let shown = door.shown();
        assert_eq!(
            (shown[0]["viewer"].as_str(), shown[1]["path"].as_str()),
            (Some("1"), Some("relay"))
        );
        assert!(!door.knows(home.ip()));
        assert!(door.admit(ViewerId(1)) && !door.admit(ViewerId(1)));
        assert!(first.word().await && door.knows(home.ip()));
        assert_eq!(door.turn_away(ViewerId(2)), Some(elsewhere.ip()));
        assert_eq!(door.turn_away(ViewerId(2)), None);
        assert!(!second.word().await && !door.knows(elsewhere.ip()));
        assert!(door.shown().is_empty());
        door.forget(home.ip());
        assert!(!door.knows(home.ip()));
    }

    #[test]
    fn who_goes_waits_no_more_and_a_household_has_so_many_knocks() {
        let door = Arc::<Door>::default();
        let home = at("[2001:db8:1::1]:5000");
        let knock = |number: u32| {
            let remote = at(&format!("[2001:db8:1:{number:x}::1]:5000"));
            door.knock(ViewerId(number), remote, "host")
        };
        let waiting: Vec<_> =
            (0..MOST_OF_ONE as u32).map(|number| knock(number).expect("room")).collect();
        assert!(knock(9).is_none() && door.shown().len() == MOST_OF_ONE);
        drop(waiting);
        assert!(door.shown().is_empty() && !door.admit(ViewerId(0)));
        assert!(door.knock(ViewerId(10), home, "host").is_some());
    }
}
