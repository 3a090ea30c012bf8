//! The door, where the operator admits each viewer: who is not known knocks, and waits for as long as it likes.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::channel::ViewerId;
use protocol::control::Refusal;
use tokio::sync::oneshot;

use crate::origin::{Known, Origin};

/// Viewers that may wait at once: of one household, in all, and of those who show neither a minted link nor the
/// secret, so that there is room for who does.
const MOST_OF_ONE: usize = 4;
const MOST_KNOCKS: usize = 1_000;
const MOST_STRANGERS: usize = MOST_KNOCKS / 2;

/// Where there is no room, who has waited for so long gives its place to who comes.
const STALE_AFTER: Duration = Duration::from_secs(600);

/// Knocks that are told as events: one of each household, and so many in all, within this time.
const TELLING: Duration = Duration::from_secs(60);
const MOST_TOLD: usize = 20;

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
    known: HashSet<Known>,
    /// Whose knocks were told of lately.
    told: Vec<(Option<IpAddr>, Instant)>,
}

#[derive(Debug)]
struct Knock {
    origin: Option<Origin>,
    /// Whether neither a minted link nor the secret was shown.
    is_stranger: bool,
    since: Instant,
    word: oneshot::Sender<()>,
}

impl Knock {
    fn is_of(&self, home: Option<IpAddr>) -> bool {
        self.origin.map(|origin| origin.household) == home
    }
}

/// A viewer's wait at the door; over when dropped.
#[derive(Debug)]
pub(crate) struct Knocking {
    viewer: ViewerId,
    word: oneshot::Receiver<()>,
    door: Arc<Door>,
}

impl Knocking {
    /// Whether it is let in, once the operator said so, or its place went to another.
    pub(crate) async fn word(&mut self) -> bool {
        (&mut self.word).await.is_ok()
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        self.door.lock().knocks.remove(&self.viewer);
    }
}

impl State {
    /// Has the oldest stale one of these go; those who show nothing go first. False where none is stale.
    fn displace(&mut self, now: Instant, among: impl Fn(&Knock) -> bool) -> bool {
        let is_stale = |knock: &Knock| now.saturating_duration_since(knock.since) >= STALE_AFTER;
        let those = self.knocks.iter().filter(|(_, knock)| is_stale(knock) && among(knock));
        let oldest = those.min_by_key(|(_, knock)| (!knock.is_stranger, knock.since));
        let oldest = oldest.map(|(viewer, _)| *viewer);
        // It hears so, as nobody is left to give it a word.
        oldest.and_then(|viewer| self.knocks.remove(&viewer)).is_some()
    }
}

impl Door {
    /// Whether a viewer from there was let in before. Where it comes from must be proved: a rendezvous that lies
    /// must not open the door.
    pub(crate) fn knows(&self, origin: Option<Origin>) -> bool {
        let by = origin.and_then(|origin| origin.known_by());
        by.is_some_and(|by| self.lock().known.contains(&by))
    }

    /// A viewer knocks, or why it may not.
    pub(crate) fn knock(
        self: &Arc<Self>,
        viewer: ViewerId,
        origin: Option<Origin>,
        is_stranger: bool,
        now: Instant,
    ) -> Result<Knocking, Refusal> {
        let mut state = self.lock();
        let home = origin.map(|origin| origin.household);
        let count = |state: &State, of: &dyn Fn(&Knock) -> bool| {
            state.knocks.values().filter(|knock| of(knock)).count()
        };
        if count(&state, &|knock| knock.is_of(home)) >= MOST_OF_ONE
            && !state.displace(now, |knock| knock.is_of(home))
        {
            return Err(Refusal::TooMany);
        }
        let is_full = state.knocks.len() >= MOST_KNOCKS
            || (is_stranger && count(&state, &|knock| knock.is_stranger) >= MOST_STRANGERS);
        if is_full && !state.displace(now, |knock| knock.is_stranger || !is_stranger) {
            return Err(Refusal::Full);
        }
        let (told, word) = oneshot::channel();
        state.knocks.insert(viewer, Knock { origin, is_stranger, since: now, word: told });
        Ok(Knocking { viewer, word, door: Arc::clone(self) })
    }

    /// Whether a knock is to be told of. Those of strangers must not push out what else was told.
    pub(crate) fn is_news(&self, origin: Option<Origin>, now: Instant) -> bool {
        let home = origin.map(|origin| origin.household);
        let mut state = self.lock();
        let told = &mut state.told;
        told.retain(|(_, at)| now.saturating_duration_since(*at) < TELLING);
        let is_news = told.len() < MOST_TOLD && told.iter().all(|(other, _)| *other != home);
        if is_news {
            told.push((home, now));
        }
        is_news
    }

    /// Lets in who knocks, and whoever comes from its address. False where nobody of this number waits.
    pub(crate) fn admit(&self, viewer: ViewerId) -> bool {
        let mut state = self.lock();
        let Some(Knock { origin, word, .. }) = state.knocks.remove(&viewer) else { return false };
        let by = origin.and_then(|origin| origin.known_by());
        if let Some(by) = by.filter(|_| state.known.len() < MOST_KNOWN) {
            state.known.insert(by);
        }
        word.send(()).is_ok()
    }

    /// Nobody from there is known any more.
    pub(crate) fn forget(&self, origin: &Origin) {
        self.lock().known.retain(|known| !known.is_of(origin));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use protocol::candidate::CandidateKind;
    use protocol::opening::{Local, Path};

    use super::*;

    /// The address that all viewers at a relay come from.
    const RELAY: u32 = 0xff_ffff;

    fn from(number: u32) -> Option<Origin> {
        on_path(CandidateKind::Reflexive, number, number)
    }

    /// A viewer on a path of a kind that it says, to one address, and seen by the rendezvous at another.
    fn on_path(kind: CandidateKind, remote: u32, seen: u32) -> Option<Origin> {
        let at = |number: u32| (IpAddr::from((0x0b00_0000 + number).to_be_bytes()), 5000).into();
        let path = Path {
            local: Local::MAIN,
            remote: at(remote),
            kind,
            seen_as: at(0),
            rtt: Duration::ZERO,
            took: Duration::ZERO,
            is_repair: false,
        };
        Origin::of(&path, Some(at(seen)))
    }

    #[tokio::test]
    async fn who_knocks_is_let_in_and_known() {
        let door = Arc::<Door>::default();
        let now = Instant::now();
        let (home, seen) = (from(1), on_path(CandidateKind::Relayed, RELAY, 2));
        let mut first = door.knock(ViewerId(1), home, false, now).expect("room");
        let mut relayed = door.knock(ViewerId(2), seen, false, now).expect("room");
        assert!(!door.knows(home) && !door.knows(None));
        assert!(door.admit(ViewerId(1)) && !door.admit(ViewerId(1)));
        assert!(first.word().await && door.knows(home));
        // What only the rendezvous says opens no door later.
        assert!(door.admit(ViewerId(2)) && relayed.word().await);
        assert!(!door.knows(seen) && !door.knows(from(2)));
        assert!(!door.knows(on_path(CandidateKind::Relayed, RELAY, 1)));
        door.forget(&home.expect("known"));
        assert!(!door.knows(home));
    }

    #[test]
    fn who_calls_a_relay_its_home_opens_the_door_to_nobody_else() {
        let door = Arc::<Door>::default();
        // By another path than the rendezvous saw, which may be so (IPv6), or may be a lie.
        let liar = on_path(CandidateKind::Host, RELAY, 1);
        let _knocking = door.knock(ViewerId(1), liar, false, Instant::now()).expect("room");
        assert!(door.admit(ViewerId(1)) && door.knows(liar), "it is back");
        for other in [CandidateKind::Host, CandidateKind::Reflexive, CandidateKind::Relayed] {
            assert!(!door.knows(on_path(other, RELAY, 2)), "{other:?}");
        }
        // What the rendezvous alone says is not enough, nor is the relay's address.
        assert!(!door.knows(from(1)) && !door.knows(from(RELAY)));
        door.forget(&liar.expect("it was seen"));
        assert!(!door.knows(liar));
    }

    #[test]
    fn who_goes_waits_no_more_and_a_household_has_so_many_knocks() {
        let door = Arc::<Door>::default();
        let now = Instant::now();
        for home in [from(1), None] {
            let knock = |number| door.knock(ViewerId(number), home, false, now);
            let waiting: Vec<_> =
                (0..MOST_OF_ONE as u32).map(|number| knock(number).expect("room")).collect();
            assert_eq!(knock(9).map(|_| ()), Err(Refusal::TooMany));
            assert_eq!(door.lock().knocks.len(), MOST_OF_ONE);
            drop(waiting);
            assert!(door.lock().knocks.is_empty() && !door.admit(ViewerId(0)));
            assert!(knock(10).is_ok());
        }
    }

    #[test]
    fn strangers_leave_room_for_who_shows_a_link() {
        let door = Arc::<Door>::default();
        let now = Instant::now();
        let mut number = 0;
        let mut knock = |is_stranger, now| {
            number += 1;
            door.knock(ViewerId(number), from(number), is_stranger, now)
        };
        let strangers: Vec<_> =
            (0..MOST_STRANGERS).map(|_| knock(true, now).expect("room")).collect();
        assert_eq!(knock(true, now).map(|_| ()), Err(Refusal::Full));
        let guests: Vec<_> = (MOST_STRANGERS..MOST_KNOCKS)
            .map(|_| knock(false, now).expect("room for who shows a link"))
            .collect();
        assert_eq!(knock(false, now).map(|_| ()), Err(Refusal::Full));
        drop((strangers, guests));
    }

    #[tokio::test]
    async fn who_waits_for_long_gives_way_and_strangers_first() {
        let door = Arc::<Door>::default();
        let began = Instant::now();
        let knock = |number: u32, is_stranger, now| {
            door.knock(ViewerId(number), from(number), is_stranger, now)
        };
        let half = MOST_STRANGERS as u32;
        let mut guests: Vec<_> =
            (0..half).map(|at| knock(at, false, began).expect("room")).collect();
        let later = began + Duration::from_secs(1);
        let mut strangers: Vec<_> =
            (half..2 * half).map(|at| knock(at, true, later).expect("room")).collect();
        let stale = later + STALE_AFTER;
        assert_eq!(
            knock(5000, true, stale - Duration::from_millis(1)).map(|_| ()),
            Err(Refusal::Full)
        );
        let _stranger = knock(5000, true, stale).expect("another gives way");
        assert!(!strangers[0].word().await, "the one that waited the longest");
        let _guest = knock(5001, false, stale).expect("another gives way");
        assert!(!strangers[1].word().await, "a stranger, though guests wait for longer");
        assert!(door.admit(ViewerId(0)) && guests[0].word().await);

        // In a household, too.
        let home = |at, now| door.knock(ViewerId(6000 + at), from(6000), false, now);
        let _home: Vec<_> = (0..MOST_OF_ONE as u32).map(|at| home(at, stale)).collect();
        assert_eq!(home(10, stale).map(|_| ()), Err(Refusal::TooMany));
        assert!(home(11, stale + STALE_AFTER).is_ok());
    }

    #[test]
    fn knocks_are_told_of_now_and_then() {
        let door = Door::default();
        let now = Instant::now();
        assert!(door.is_news(from(1), now) && !door.is_news(from(1), now + TELLING / 2));
        assert!(door.is_news(None, now) && !door.is_news(None, now));
        let told = (2..1000).filter(|at| door.is_news(from(*at), now)).count();
        assert_eq!(told, MOST_TOLD - 2);
        assert!(door.is_news(from(1), now + TELLING));
    }
}
