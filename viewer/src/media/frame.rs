//! The window as its X server and window manager have it: its size, and whether it fills the screen. GStreamer's sinks
//! open one, tell its number, and follow whatever size it gets.

use std::sync::Mutex;

use gstreamer as gst;
use gstreamer::prelude::*;
use x11rb::connection::Connection;
use x11rb::errors::ReplyError;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ClientMessageEvent, ConfigureWindowAux, ConnectionExt, EventMask,
};
use x11rb::rust_connection::RustConnection;

use super::shared::lock;

/// A window that opens takes no more than this share of the screen's sides.
const MOST_OF_SCREEN: f64 = 0.9;

/// Atoms that a list of them may hold.
const MOST_ATOMS: u32 = 1024;

/// The other of the two states (`_NET_WM_STATE`, Extended Window Manager Hints).
const TOGGLE: u32 = 2;

/// What is around the picture.
#[derive(Debug)]
pub(super) struct Frame {
    /// For those sinks that fill the screen by themselves.
    sink: gst::glib::WeakRef<gst::Element>,
    window: Mutex<Option<XWindow>>,
}

#[derive(Debug)]
struct XWindow {
    connection: RustConnection,
    id: u32,
    root: u32,
    /// Width and height of the screen, in pixels.
    screen: (u32, u32),
    /// Where it was before it filled the screen, where no window manager knows: left, top, width, height.
    before: Option<(i32, i32, u32, u32)>,
}

impl Frame {
    /// Of the window that this sink will open.
    pub(super) fn of(sink: &gst::Element) -> Self {
        Self { sink: sink.downgrade(), window: Mutex::default() }
    }

    /// The sink has opened the X window of that number.
    pub(super) fn opened(&self, id: u32) {
        match XWindow::new(id) {
            Ok(window) => *lock(&self.window) = Some(window),
            Err(error) => tracing::debug!(%error, "the window's size stays as it is"),
        }
    }

    /// Gives it the size of its picture, in pixels, or as much of that as the screen has room for.
    pub(super) fn fit(&self, width: u32, height: u32) {
        self.with(|window| window.fit(width, height));
    }

    /// Fills the screen, or no longer.
    pub(super) fn toggle_full(&self) {
        let sink = self.sink.upgrade();
        if let Some(sink) =
            sink.filter(|it| it.has_property_with_type("fullscreen", bool::static_type()))
        {
            sink.set_property("fullscreen", !sink.property::<bool>("fullscreen"));
            return;
        }
        self.with(XWindow::toggle_full);
    }

    /// Whether it fills the screen.
    pub(super) fn is_full(&self) -> bool {
        let sink = self.sink.upgrade();
        if let Some(sink) =
            sink.filter(|it| it.has_property_with_type("fullscreen", bool::static_type()))
        {
            return sink.property("fullscreen");
        }
        self.with(|window| window.is_full()).unwrap_or(false)
    }

    fn with<T>(&self, act: impl FnOnce(&mut XWindow) -> Result<T, ReplyError>) -> Option<T> {
        let mut window = lock(&self.window);
        match act(window.as_mut()?) {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::debug!(%error, "the window does not obey");
                None
            }
        }
    }
}

impl XWindow {
    fn new(id: u32) -> Result<Self, x11rb::errors::ConnectError> {
        let (connection, number) = x11rb::connect(None)?;
        let screen = connection.setup().roots.get(number);
        let screen = screen.ok_or(x11rb::errors::ConnectError::InvalidScreen)?;
        let (root, size) = (screen.root, (screen.width_in_pixels, screen.height_in_pixels));
        Ok(Self { connection, id, root, screen: (size.0.into(), size.1.into()), before: None })
    }

    fn fit(&mut self, width: u32, height: u32) -> Result<(), ReplyError> {
        if width == 0 || height == 0 || self.is_full()? {
            return Ok(());
        }
        let (width, height) = fitted((width, height), self.screen);
        let size = ConfigureWindowAux::new().width(width).height(height);
        self.connection.configure_window(self.id, &size)?.check()
    }

    fn toggle_full(&mut self) -> Result<(), ReplyError> {
        if let Some((state, full)) = self.managed()? {
            let data = [TOGGLE, full, 0, 1, 0];
            let event = ClientMessageEvent::new(32, self.id, state, data);
            let to = EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY;
            return self.connection.send_event(false, self.root, to, event)?.check();
        }
        let (left, top, width, height) = match self.before.take() {
            Some(before) => before,
            None => {
                let now = self.connection.get_geometry(self.id)?.reply()?;
                self.before =
                    Some((now.x.into(), now.y.into(), now.width.into(), now.height.into()));
                (0, 0, self.screen.0, self.screen.1)
            }
        };
        let place = ConfigureWindowAux::new().x(left).y(top).width(width).height(height);
        self.connection.configure_window(self.id, &place)?.check()
    }

    fn is_full(&self) -> Result<bool, ReplyError> {
        match self.managed()? {
            Some((state, full)) => Ok(self.atoms(self.id, state)?.contains(&full)),
            None => Ok(self.before.is_some()),
        }
    }

    /// The atoms of a window's state and of its filling the screen, where a window manager knows of that.
    fn managed(&self) -> Result<Option<(Atom, Atom)>, ReplyError> {
        let atom = |name: &str| -> Result<Atom, ReplyError> {
            Ok(self.connection.intern_atom(false, name.as_bytes())?.reply()?.atom)
        };
        let full = atom("_NET_WM_STATE_FULLSCREEN")?;
        let known = self.atoms(self.root, atom("_NET_SUPPORTED")?)?;
        Ok(if known.contains(&full) { Some((atom("_NET_WM_STATE")?, full)) } else { None })
    }

    fn atoms(&self, window: u32, property: Atom) -> Result<Vec<Atom>, ReplyError> {
        let kind = AtomEnum::ATOM;
        let asked = self.connection.get_property(false, window, property, kind, 0, MOST_ATOMS)?;
        Ok(asked.reply()?.value32().into_iter().flatten().collect())
    }
}

/// A size with these proportions that has room on the screen.
fn fitted(size: (u32, u32), screen: (u32, u32)) -> (u32, u32) {
    let room = |side: u32, of: u32| f64::from(of) * MOST_OF_SCREEN / f64::from(side);
    let share = room(size.0, screen.0).min(room(size.1, screen.1)).min(1.0);
    let scaled = |side: u32| ((f64::from(side) * share).round() as u32).max(1);
    (scaled(size.0), scaled(size.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_as_large_as_its_picture_and_no_larger_than_the_screen() {
        let screen = (1280, 800);
        assert_eq!(fitted((320, 180), screen), (320, 180));
        assert_eq!(fitted((1152, 648), screen), (1152, 648));
        assert_eq!(fitted((3840, 2160), screen), (1152, 648));
        assert_eq!(fitted((1080, 1920), screen), (405, 720));
    }
}
