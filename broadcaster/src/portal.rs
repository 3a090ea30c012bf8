//! The screen of a Wayland desktop, by xdg-desktop-portal: the desktop asks its user which screen or window to show, and
//! hands over a connection to PipeWire that has nothing else.
//!
//! The session with the desktop belongs to the broadcaster, not to the process of the source: one that crashes is given
//! another connection to the same session, and nobody is asked again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ashpd::desktop::screencast::{CursorMode, Screencast, SelectSourcesOptions, SourceType};
use ashpd::desktop::{PersistMode, Session};
use ashpd::{Error, zbus};
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use crate::media::screen::{self, Shown};
use crate::media::{Event, EventSink, MediaError, SourceSpec};

/// The file in the state folder with what the desktop wants to see to show the same again without asking.
const TOKEN: &str = "screen-token";

/// How long a desktop may take to give another connection; its user has no part in that.
const CONNECTING: Duration = Duration::from_secs(5);

/// The desktop, asked at most once for a screen until that is taken back.
#[derive(Clone)]
pub(crate) struct Portal(Arc<Desk>);

struct Desk {
    token_at: PathBuf,
    runtime: Handle,
    session: Mutex<Option<Granted>>,
    is_withdrawn: Arc<AtomicBool>,
}

/// What the desktop shows.
struct Granted {
    screencast: Screencast,
    session: Arc<Session<Screencast>>,
    node: u32,
    /// Who waits for its end.
    watching: AbortHandle,
}

impl Drop for Granted {
    /// The session ends with its connection, which nobody holds any more then.
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Portal {
    /// The portal of a source that needs one, with a folder for what the desktop wants remembered: for the channel of this
    /// name, where there are several. To be called within the runtime that serves its connection.
    pub(crate) fn of(source: &SourceSpec, state: &Path, channel: Option<&str>) -> Option<Self> {
        let SourceSpec::Screen(screen) = source else { return None };
        screen.is_portals().then(|| {
            Self(Arc::new(Desk {
                token_at: state
                    .join(channel.map_or(TOKEN.to_owned(), |name| format!("{TOKEN}.{name}"))),
                runtime: Handle::current(),
                session: Mutex::default(),
                is_withdrawn: Arc::default(),
            }))
        })
    }

    /// A connection to what is shown. Asks the desktop where that has not been asked or is another one by now, and waits
    /// for its user as long as it takes. Where the user stops the showing later, `events` has the source's end. Blocks.
    ///
    /// # Errors
    ///
    /// [`MediaError::Refused`] where the user does not want it, [`MediaError::Withdrawn`] where the showing was stopped
    /// before, [`MediaError::Screen`] where there is no portal or it fails.
    pub(crate) fn open(&self, events: &EventSink) -> Result<Shown, MediaError> {
        // Before anybody is asked.
        screen::can_show()?;
        self.0.runtime.block_on(self.0.open(events))
    }
}

impl Desk {
    async fn open(&self, events: &EventSink) -> Result<Shown, MediaError> {
        let mut session = self.session.lock().await;
        if self.is_withdrawn.load(Ordering::SeqCst) {
            return Err(MediaError::Withdrawn);
        }
        if let Some(granted) = session.as_ref() {
            match granted.connect().await {
                Ok(shown) => return Ok(shown),
                Err(error) => tracing::debug!(%error, "the desktop's session is gone"),
            }
            if self.is_withdrawn.load(Ordering::SeqCst) {
                return Err(MediaError::Withdrawn);
            }
        }
        *session = None;
        let granted = self.ask(events).await.map_err(said)?;
        let shown = granted.connect().await.map_err(said)?;
        *session = Some(granted);
        Ok(shown)
    }

    async fn ask(&self, events: &EventSink) -> Result<Granted, Error> {
        // One of its own each time: a bus that was restarted has forgotten the one before.
        let screencast = Screencast::with_connection(zbus::Connection::session().await?).await?;
        let session = Arc::new(screencast.create_session(Default::default()).await?);
        let token = self.token();
        let wanted = SelectSourcesOptions::default()
            .set_sources(SourceType::Monitor | SourceType::Window)
            .set_multiple(false)
            .set_cursor_mode(CursorMode::Embedded)
            .set_persist_mode(PersistMode::ExplicitlyRevoked)
            .set_restore_token(token.as_deref());
        screencast.select_sources(&session, wanted).await?.response()?;
        if token.is_none() {
            tracing::info!(
                "the desktop asks which screen or window to show; waiting for the answer there"
            );
        }
        let begun = screencast.start(&session, None, Default::default()).await?.response()?;
        self.remember(begun.restore_token());
        let stream = begun.streams().first().ok_or(Error::NoResponse)?;
        let node = stream.pipe_wire_node_id();
        tracing::info!(node, size = ?stream.size(), "the desktop shows its screen");
        let watching = self.watch(Arc::clone(&session), events);
        Ok(Granted { screencast, session, node, watching })
    }

    /// Tells once the desktop's user stops the showing.
    fn watch(&self, session: Arc<Session<Screencast>>, events: &EventSink) -> AbortHandle {
        let (events, is_withdrawn) = (Arc::clone(events), Arc::clone(&self.is_withdrawn));
        let watching = tokio::spawn(async move {
            match session.receive_closed().await {
                // A bus that is gone closes nothing: its stream just ends.
                Ok(closed) => {
                    if pin!(closed).next().await.is_some() {
                        is_withdrawn.store(true, Ordering::SeqCst);
                        tracing::info!("the desktop has stopped showing its screen");
                        events(Event::Ended);
                    }
                }
                Err(error) => tracing::warn!(%error, "the end of the showing would not be noticed"),
            }
        });
        watching.abort_handle()
    }

    fn token(&self) -> Option<String> {
        match std::fs::read_to_string(&self.token_at) {
            Ok(token) => Some(token.trim().to_owned()).filter(|token| !token.is_empty()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, path = %self.token_at.display(), "the desktop will ask again");
                None
            }
        }
    }

    /// Each token is good for one showing; the desktop gives the next one with it.
    fn remember(&self, token: Option<&str>) {
        let kept = match token {
            Some(token) => crate::private::write(&self.token_at, token),
            None => match std::fs::remove_file(&self.token_at) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
        };
        if let Err(error) = kept {
            tracing::warn!(%error, path = %self.token_at.display(), "the desktop will ask again");
        }
    }
}

impl Granted {
    async fn connect(&self) -> Result<Shown, Error> {
        let remote = self.screencast.open_pipe_wire_remote(&self.session, Default::default());
        match tokio::time::timeout(CONNECTING, remote).await {
            Ok(remote) => Ok(Shown { remote: remote?, node: self.node }),
            Err(_) => Err(std::io::Error::from(ErrorKind::TimedOut).into()),
        }
    }
}

fn said(error: Error) -> MediaError {
    let screen =
        |what: String, remedy: &str| MediaError::Screen { what, remedy: remedy.to_owned() };
    match error {
        // Whatever ends the asking, nobody is asked again by itself.
        Error::Response(_) | Error::NoResponse => MediaError::Refused,
        Error::PortalNotFound(_) => screen(
            "this desktop has no portal for screens (org.freedesktop.portal.ScreenCast)".to_owned(),
            "install xdg-desktop-portal and the desktop's own part of it, as xdg-desktop-portal-gnome, -kde or -wlr",
        ),
        Error::Zbus(error) => screen(
            format!("the desktop's portal for screens can't be reached: {error}"),
            "start the broadcaster within the desktop's session, with xdg-desktop-portal installed",
        ),
        other => screen(
            format!("the desktop can't show its screen: {other}"),
            "log out and in again, or take another source",
        ),
    }
}
