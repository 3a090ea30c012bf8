//! Sources that come over the network: cameras that are asked, and senders that come by themselves.
//! Coded tracks go on as they are.

mod arrival;
mod interleave;
mod rtmp;
mod rtp;
mod rtsp;
mod srt;
mod steady;
#[cfg(test)]
mod tests;
mod url;

use std::sync::Arc;
use std::time::Duration;

use super::error::MediaError;
use super::gate::Manners;
use super::spec::SourceSpec;
use super::track::Live;
pub use rtmp::Entrance;
pub(super) use rtmp::Listener;
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
        SourceSpec::Network(_) => {
            Manners { waits: source.waits(), longest_silence: Some(LONGEST_SILENCE) }
        }
        // They give pictures all the time, unless a driver or an encoder hangs.
        SourceSpec::Test | SourceSpec::Camera(_) | SourceSpec::Screen(_) => {
            Manners { waits: false, longest_silence: Some(LONGEST_SILENCE) }
        }
        SourceSpec::File(_) | SourceSpec::Pipeline(_) | SourceSpec::None => Manners::default(),
    }
}

/// The same error, with what to try where it is the source over the network that failed.
pub(super) fn explained(source: &SourceSpec, error: MediaError) -> MediaError {
    let SourceSpec::Network(url) = source else { return error };
    let MediaError::Pipeline { element, reason } = &error else { return error };
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let remedy = match (&url.kind, element.as_str()) {
        (Kind::Rtsp(_), "rtspsrc") if says(&["401", "Unauthorized", "403"]) => {
            "give its login, as in rtsp://USER:PASSWORD@HOST/PATH"
        }
        (Kind::Rtsp(_), "rtspsrc") if says(&["404", "Not Found"]) => {
            "its manual tells the path of its stream"
        }
        (Kind::Rtsp(_), "rtspsrc") => "see whether it is on, and whether host and port are right",
        (Kind::Srt(srt), "srtsrc") if !srt.listens && says(&["Connection"]) => {
            "nobody answers there; to be called by a sender, write srt://:PORT"
        }
        _ => return error,
    };
    MediaError::Remote { what: source.to_string(), reason: reason.clone(), remedy }
}

/// Makes a track of each picture and sound that the source has. A port is opened where none is yet, and tracks
/// are made once it [listens](Entrance::listen).
pub(super) fn attach(
    live: &Arc<Live>,
    url: &NetworkUrl,
    entrance: &mut Option<Entrance>,
) -> Result<(), MediaError> {
    match &url.kind {
        Kind::Rtsp(rtsp) => rtsp::attach(live, rtsp),
        Kind::Srt(srt) => srt::attach(live, srt),
        Kind::Rtp(rtp) => rtp::attach(live, rtp),
        Kind::Rtmp(_) if entrance.is_some() => Ok(()),
        Kind::Rtmp(rtmp) => {
            *entrance = Some(Entrance::open(rtmp)?);
            Ok(())
        }
    }
}
