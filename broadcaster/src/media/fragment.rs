//! Sources written as a pipeline fragment: the user's, and the test picture.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::config::VideoConfig;
use super::elements::missing;
use super::error::{MediaError, one_line};
use super::track::{Live, Timing};

/// A moving picture with the time of day and the running time burnt in, and a tone. Sound comes in
/// pieces of 20 ms, as Opus packs it.
pub(super) fn test_pattern(config: &VideoConfig) -> String {
    let VideoConfig { width, height, framerate, .. } = config;
    format!(
        "videotestsrc is-live=true pattern=smpte horizontal-speed=2 \
         ! video/x-raw,format=I420,width={width},height={height},framerate={framerate}/1 \
         ! clockoverlay halignment=left time-format=\"%H:%M:%S\" font-desc=\"Sans 24\" \
         ! timeoverlay halignment=right font-desc=\"Sans 24\" \
         audiotestsrc is-live=true wave=sine freq=440 volume=0.2 samplesperbuffer=960 \
         ! capsfilter caps=audio/x-raw,format=S16LE,rate=48000,channels=2"
    )
}

/// Makes a track of each source pad that the fragment leaves unlinked, also of those that only
/// appear while it runs.
pub(super) fn attach(live: &Arc<Live>, description: &str) -> Result<(), MediaError> {
    let bin = parse(description)?;
    live.add(&bin)?;

    let elements = elements(&bin);
    let late = elements.iter().filter(|element| adds_pads(element)).collect::<Vec<_>>();
    attach_late(live, &late, Timing::Source);
    let mut tracks = 0;
    for pad in elements.iter().flat_map(|element| element.src_pads()) {
        if !pad.is_linked() {
            live.attach(&pad, Timing::Source)?;
            tracks += 1;
        }
    }
    if late.is_empty() {
        if tracks == 0 {
            return Err(MediaError::NoTracks {
                source_name: "the pipeline fragment".to_owned(),
                remedy: "leave a source pad unlinked for each track",
            });
        }
        live.gate.complete();
    }
    Ok(())
}

/// Makes a track of each source pad that these elements add while they run. They have said all once
/// each of them says so.
pub(super) fn attach_late(live: &Arc<Live>, elements: &[&gst::Element], timing: Timing) {
    let unfinished = Arc::new(AtomicUsize::new(elements.len()));
    for element in elements {
        let on_pad = live.clone();
        // Links that were asked for are made before this is called.
        element.connect_pad_added(move |_, pad| {
            if pad.direction() != gst::PadDirection::Src || pad.is_linked() {
                return;
            }
            on_pad.gate.begin();
            if let Err(error) = on_pad.attach(pad, timing) {
                on_pad.fail(error);
            }
        });
        let (on_last, unfinished) = (live.clone(), unfinished.clone());
        element.connect_no_more_pads(move |_| {
            if unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
                on_last.gate.complete();
            }
        });
    }
}

/// How caps begin.
const CAPS_STARTS: [&str; 5] = ["video/", "audio/", "image/", "application/", "text/"];

fn parse(description: &str) -> Result<gst::Bin, MediaError> {
    // Caps at the end are a link to nothing in the grammar; as a source's last word they are clear.
    let ends_in_caps = description.rsplit('!').next().is_some_and(|end| {
        let end = end.trim_start();
        CAPS_STARTS.iter().any(|start| end.starts_with(start)) && !end.contains(char::is_whitespace)
    });
    let description = if ends_in_caps { &format!("{description} ! identity") } else { description };
    let mut context = gst::ParseContext::new();
    let parsed = gst::parse::bin_from_description_full(
        description,
        false,
        Some(&mut context),
        gst::ParseFlags::FATAL_ERRORS,
    );
    let fragment = |reason: String| MediaError::Fragment { reason };
    match parsed {
        Ok(element) => {
            element.downcast().map_err(|_| fragment("it is not a chain of elements".to_owned()))
        }
        Err(error) if error.matches(gst::ParseError::NoSuchElement) => {
            Err(match context.missing_elements().first() {
                Some(element) if CAPS_STARTS.contains(&format!("{element}/").as_str()) => {
                    fragment(format!("caps {element}/… end a chain; put ! identity behind them"))
                }
                Some(element) => missing(element),
                None => fragment(one_line(error.message())),
            })
        }
        Err(error) => Err(fragment(one_line(error.message()))),
    }
}

/// The elements that the description names, in its order.
fn elements(bin: &gst::Bin) -> Vec<gst::Element> {
    let mut found = Vec::new();
    // A bin lists its newest child first.
    for child in bin.children().into_iter().rev() {
        // Bins of the description are looked into; those that are elements in their own right,
        // such as decodebin, are not.
        let plain = child.factory().is_none_or(|factory| factory.name() == "bin");
        match child.dynamic_cast::<gst::Bin>() {
            Ok(inner) if plain => found.extend(elements(&inner)),
            Ok(inner) => found.push(inner.upcast()),
            Err(element) => found.push(element),
        }
    }
    found
}

/// Whether an element adds source pads by itself while it runs, and says when it is done.
fn adds_pads(element: &gst::Element) -> bool {
    element.pad_template_list().iter().any(|template| {
        template.direction() == gst::PadDirection::Src
            && template.presence() == gst::PadPresence::Sometimes
    })
}
