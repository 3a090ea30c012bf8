//! What a viewer tells its broadcaster of reception: sealed, and sent on whatever path there is.

use protocol::control::Admission;
use protocol::feedback::{Block, Times, Totals, Wish, encode_report, encode_wish};
use protocol::srtcp::Sealer;
use transport::openings::Handle;

/// The way of one admitted viewer's feedback. What gets lost is not sent again: the next report says it all.
#[derive(Debug)]
pub struct Feedback {
    viewer: u32,
    sealer: Sealer,
    path: Handle,
}

impl Feedback {
    /// The way of feedback for this admission. Only one may be made of each.
    pub fn new(admission: &Admission, path: Handle) -> Self {
        let viewer = admission.viewer;
        Self { viewer, sealer: Sealer::new(&admission.feedback_key, viewer), path }
    }

    /// Says how reception goes.
    pub fn report(&mut self, blocks: &[Block], totals: &Totals, times: Times) {
        self.send(encode_report(self.viewer, blocks, totals, times));
    }

    /// Asks for what is missing.
    pub fn wish(&mut self, wish: &Wish) {
        tracing::trace!(?wish, "asking");
        self.send(encode_wish(self.viewer, wish));
    }

    /// Seals and sends a packet that was encoded before.
    pub(crate) fn send(&mut self, mut packet: Vec<u8>) {
        if let Err(error) = self.sealer.seal(&mut packet) {
            tracing::warn!(%error, "feedback not sent");
        } else if let Err(error) = self.path.send(&packet) {
            tracing::trace!(%error, "feedback not sent");
        }
    }
}
