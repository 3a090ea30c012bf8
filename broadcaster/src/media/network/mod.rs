//! Sources that come over the network: cameras that are asked, and senders that come by themselves.
//! Coded tracks go on as they are.

mod rtp;
mod rtsp;
mod srt;
#[cfg(test)]
mod tests;
mod url;

use std::sync::Arc;
use std::time::Duration;

use super::error::MediaError;
use super::gate::Manners;
use super::spec::SourceSpec;
use super::track::Live;
use url::Kind;
pub use url::{NetworkUrl, redacted};

/// How long a source over the network may be silent. A camera whose plug was pulled says nothing,
/// and keyframes that a slow sender makes take a second or two.
const LONGEST_SILENCE: Duration = Duration::from_secs(4);

/// How packets that overtake each other are waited for, in milliseconds.
const REORDERING: &str = "200";

/// How long what a source gives may take.
pub(super) fn manners(source: &SourceSpec) -> Manners {
    match source {
        SourceSpec::Network(url) => {
            Manners { waits: url.listens(), longest_silence: Some(LONGEST_SILENCE) }
        }
        _ => Manners::default(),
    }
}

/// Makes a track of each picture and sound that the source has.
pub(super) fn attach(live: &Arc<Live>, url: &NetworkUrl) -> Result<(), MediaError> {
    match &url.kind {
        Kind::Rtsp(rtsp) => rtsp::attach(live, rtsp),
        Kind::Srt(srt) => srt::attach(live, srt),
        Kind::Rtp(rtp) => rtp::attach(live, rtp),
    }
}
