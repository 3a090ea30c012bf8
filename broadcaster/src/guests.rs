//! Who is here: every session that was let in or waits at the door, whatever it does, so that the operator sees it
//! and can end it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::channel::ViewerId;
use protocol::control::Request;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::origin::Origin;

/// Minted links that one session may show.
const MOST_LINKS_EACH: usize = 8;

/// Most of a path within the library that is shown, in characters.
const MOST_SHOWN: usize = 200;

/// The path to a viewer, as the operator sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whereabouts {
    pub(crate) remote: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) origin: Option<Origin>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Guests {
    all: Mutex<BTreeMap<ViewerId, Arc<Guest>>>,
    next: AtomicU32,
}

impl Default for Guests {
    fn default() -> Self {
        Self { all: Mutex::default(), next: AtomicU32::new(1) }
    }
}

/// One session's viewer.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Its number, which it keeps from knocking to its end.
    pub(crate) viewer: ViewerId,
    since: Instant,
    leave: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    whereabouts: Whereabouts,
    links: Vec<Shown>,
    /// What it knocks for, until it is let in.
    wants: Option<String>,
}

/// A minted link that was shown.
#[derive(Debug)]
struct Shown {
    name: Arc<str>,
    /// Whether it was counted as a use.
    has_entered: bool,
}

/// A viewer's stay; over when dropped.
#[derive(Debug)]
pub(crate) struct Stay {
    guest: Arc<Guest>,
    guests: Arc<Guests>,
}

impl std::ops::Deref for Stay {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.guests.lock().remove(&self.guest.viewer);
    }
}

impl Guests {
    /// A number for one more viewer.
    pub(crate) fn number(&self) -> ViewerId {
        ViewerId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A session is known from now on, and ended by `leave`.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        viewer: ViewerId,
        whereabouts: Whereabouts,
        leave: &Arc<Notify>,
    ) -> Stay {
        let state = State { whereabouts, links: Vec::new(), wants: None };
        let guest = Arc::new(Guest {
            viewer,
            since: Instant::now(),
            leave: Arc::clone(leave),
            state: Mutex::new(state),
        });
        self.lock().insert(viewer, Arc::clone(&guest));
        Stay { guest, guests: Arc::clone(self) }
    }

    /// The one with this number.
    pub(crate) fn find(&self, viewer: ViewerId) -> Option<Arc<Guest>> {
        self.lock().get(&viewer).cloned()
    }

    /// All, by number.
    pub(crate) fn all(&self) -> Vec<Arc<Guest>> {
        self.lock().values().cloned().collect()
    }

    /// Those that showed this link.
    pub(crate) fn by_link(&self, name: &str) -> Vec<Arc<Guest>> {
        let mut guests = self.all();
        guests.retain(|guest| guest.lock().links.iter().any(|shown| &*shown.name == name));
        guests
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ViewerId, Arc<Guest>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Ends its session, whatever that does.
    pub(crate) fn leave(&self) {
        self.leave.notify_one();
    }

    /// Its path is another one.
    pub(crate) fn moved(&self, whereabouts: Whereabouts) {
        self.lock().whereabouts = whereabouts;
    }

    /// Where it comes from, if that is known.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.lock().whereabouts.origin
    }

    /// It showed a minted link. False where those are too many.
    pub(crate) fn shows(&self, name: &str) -> bool {
        let mut state = self.lock();
        let links = &mut state.links;
        if links.iter().any(|shown| &*shown.name == name) {
            return true;
        }
        let has_room = links.len() < MOST_LINKS_EACH;
        if has_room {
            links.push(Shown { name: name.into(), has_entered: false });
        }
        has_room
    }

    /// It entered by a link that it showed.
    pub(crate) fn enters_by(&self, name: &str) {
        let mut state = self.lock();
        let shown = state.links.iter_mut().find(|shown| &*shown.name == name);
        shown.into_iter().for_each(|shown| shown.has_entered = true);
    }

    /// Whether it entered by this link before.
    pub(crate) fn has_entered_by(&self, name: &str) -> bool {
        self.lock().links.iter().any(|shown| &*shown.name == name && shown.has_entered)
    }

    /// It knocks, for this.
    pub(crate) fn knocks(&self, request: &Request) {
        self.lock().wants = Some(wanted(request));
    }

    /// It waits no more.
    pub(crate) fn is_let_in(&self) {
        self.lock().wants = None;
    }

    /// The guest as the operator sees it; `watching` is what is known beside where it watches something.
    pub(crate) fn shown(&self, watching: Option<Value>) -> Value {
        let state = self.lock();
        let does = match (&watching, &state.wants) {
            (Some(_), _) => "watching",
            (None, Some(_)) => "knocking",
            (None, None) => "files",
        };
        let names: Vec<&str> = state.links.iter().map(|shown| &*shown.name).collect();
        let mut shown = watching.unwrap_or_else(|| {
            json!({
                "viewer": self.viewer.to_string(),
                "state": does,
                "path": state.whereabouts.path,
                "since_seconds": self.since.elapsed().as_secs_f64(),
            })
        });
        shown["does"] = does.into();
        shown["remote"] = state.whereabouts.remote.to_string().into();
        shown["link"] = (!names.is_empty()).then(|| names.join(", ")).into();
        shown["wants"] = state.wants.clone().into();
        shown
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request is for, fit for a terminal.
fn wanted(request: &Request) -> String {
    let (what, path) = match request {
        Request::Watch { .. } => ("watch", None),
        Request::Play { path, .. } => ("play", Some(path)),
        Request::Fetch { path, .. } => ("copy", Some(path)),
        Request::List { .. }
        | Request::Files { .. }
        | Request::Thumbnail { .. }
        | Request::Clock
        | Request::Pause { .. } => ("list", None),
    };
    match path {
        Some(path) => {
            let plain = path.chars().map(|c| if c.is_control() { '?' } else { c });
            format!("{what} {}", plain.take(MOST_SHOWN).collect::<String>())
        }
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[tokio::test]
    async fn guests_are_known_from_knocking_to_their_end() {
        let guests = Arc::<Guests>::default();
        let whereabouts = |path, remote| Whereabouts { remote: at(remote), path, origin: None };
        let leave = Arc::<Notify>::default();
        let first =
            guests.arrive(guests.number(), whereabouts("reflexive", "198.51.100.7:5000"), &leave);
        let other = guests.arrive(
            guests.number(),
            whereabouts("relayed", "203.0.113.9:50000"),
            &Arc::default(),
        );
        let path = "films/a\u{1b}[2J".to_owned();
        let request = Request::Fetch { path, secret: None, offset: 0, digest: None };
        first.knocks(&request);
        assert!(first.shows("grandma") && first.shows("grandma"));
        let shown = first.shown(None);
        assert_eq!(
            [&shown["viewer"], &shown["does"], &shown["link"], &shown["wants"], &shown["remote"]],
            ["1", "knocking", "grandma", "copy films/a?[2J", "198.51.100.7:5000"]
        );
        first.is_let_in();
        first.moved(whereabouts("relayed", "203.0.113.9:50001"));
        let shown = first.shown(None);
        assert_eq!([&shown["does"], &shown["remote"]], ["files", "203.0.113.9:50001"]);
        assert!(shown["wants"].is_null());
        let shown = first.shown(Some(json!({ "viewer": "1", "state": "playing" })));
        assert_eq!(
            [&shown["state"], &shown["does"], &shown["remote"]],
            ["playing", "watching", "203.0.113.9:50001"]
        );

        // A link is counted once for a session, and it ends all of them.
        assert!(!first.has_entered_by("grandma"));
        first.enters_by("grandma");
        assert!(first.has_entered_by("grandma") && !first.has_entered_by("grandpa"));
        let more = (1..MOST_LINKS_EACH).all(|at| first.shows(&at.to_string()));
        assert!(more && !first.shows("one too many"));
        let by_it: Vec<_> = guests.by_link("grandma").iter().map(|guest| guest.viewer).collect();
        assert_eq!(by_it, [ViewerId(1)]);

        // It is told although it does not listen yet.
        guests.find(ViewerId(1)).expect("it is here").leave();
        leave.notified().await;
        drop(first);
        assert!(guests.find(ViewerId(1)).is_none());
        assert_eq!(guests.all().len(), 1);
        assert_eq!(other.shown(None)["path"], "relayed");
    }
}
