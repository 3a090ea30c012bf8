//! Messages between viewer and broadcaster.

use arbitrary::{Result, Unstructured};
use punchcast_protocol::control::{
    Admission, ChannelEntry, LeftOut, Notice, Refusal, Request, Response, Track,
};
use punchcast_protocol::library::{Digest, FileEntry, StoredMedia, StoredTrack, Take};
use punchcast_protocol::link::Secret;
use punchcast_protocol::media::{Format, Kind};
use punchcast_protocol::message::{MAX_MESSAGE, announced_length};
use punchcast_protocol::seal::{Epoch, MasterKey, Opener, WIRE_VERSION};
use punchcast_protocol::srtcp::FeedbackKey;

use super::choose::{Input, few_bytes, several, text};
use super::signalling::{decoded, returns};

/// Decodes the bytes as each message, then round-trips messages made of them.
pub fn run(data: &[u8]) {
    if let Some(prefix) = data.first_chunk() {
        assert!(
            announced_length(*prefix).is_ok_and(|length| length <= MAX_MESSAGE)
                != (u32::from_be_bytes(*prefix) as usize > MAX_MESSAGE)
        );
    }
    if let Some(request) = decoded::<Request>(data) {
        let secret = request.shown().flatten();
        assert!(
            secret.is_none_or(|secret| Secret::parse(&secret.reveal()).is_ok()),
            "illegal secret"
        );
    }
    if let Some(Response::Admitted { admission } | Response::Playing { admission, .. }) =
        decoded(data)
    {
        usable(&admission);
    }
    if let Some(Notice::Key { key }) = decoded(data) {
        named(&key);
    }
    // An error means that the input ran out.
    let _ = written(&mut Unstructured::new(data));
}

/// An admission decodes to something that an opener takes.
fn usable(admission: &Admission) {
    let streams = admission.tracks.iter().map(|track| (track.ssrc, track.live_index));
    let mut opener = Opener::new(streams);
    admission.keys.iter().for_each(|key| opener.add_key(key));
    admission.keys.iter().for_each(named);
    if let (Some(track), Some(key)) = (admission.tracks.first(), admission.keys.last()) {
        let mut packet = [0; 64];
        packet[0] = 0x80;
        packet[2..4].copy_from_slice(&(track.live_index as u16).wrapping_add(9).to_be_bytes());
        packet[8..12].copy_from_slice(&track.ssrc.to_be_bytes());
        packet[60..].copy_from_slice(&key.epoch.mki());
        assert!(opener.open(&mut packet).is_err());
    }
}

/// A key's epoch is one that an MKI can name.
fn named(key: &MasterKey) {
    assert_eq!(Epoch::from_mki(key.epoch.mki()), Some(key.epoch), "illegal epoch");
}

fn written(input: &mut Input<'_>) -> Result<()> {
    match input.int_in_range(0..=2u8)? {
        0 => returns(&request(input)?),
        1 => returns(&response(input)?),
        _ => returns(&notice(input)?),
    }
    Ok(())
}

fn request(input: &mut Input<'_>) -> Result<Request> {
    Ok(match input.int_in_range(0..=7u8)? {
        0 => Request::Watch {
            channel: text(input)?,
            secret: secret(input)?,
            latency_ms: input.arbitrary()?,
        },
        1 => Request::List { secret: secret(input)? },
        2 => Request::Clock,
        3 => Request::Files { secret: secret(input)?, after: maybe(input, text)? },
        4 => Request::Play {
            path: text(input)?,
            secret: secret(input)?,
            latency_ms: input.arbitrary()?,
            position_us: input.arbitrary()?,
            rate_percent: input.arbitrary()?,
            sound: input.arbitrary()?,
            pace_bps: input.arbitrary()?,
        },
        5 => Request::Pause { ssrc: input.arbitrary()? },
        6 => Request::Fetch {
            path: text(input)?,
            secret: secret(input)?,
            offset: input.arbitrary()?,
            digest: maybe(input, digest)?,
        },
        _ => Request::Thumbnail { path: text(input)?, secret: secret(input)? },
    })
}

fn response(input: &mut Input<'_>) -> Result<Response> {
    Ok(match input.int_in_range(0..=10u8)? {
        0 => {
            let admission = admission(input)?;
            usable(&admission);
            Response::Admitted { admission }
        }
        1 => {
            let channels = several(input, 4, |input| {
                Ok(ChannelEntry { name: text(input)?, formats: several(input, 3, format)? })
            })?;
            Response::Catalogue { channels }
        }
        2 => Response::Refused { reason: *input.choose(&Refusal::ALL)? },
        3 => Response::Clock { capture_us: input.arbitrary()? },
        4 => Response::Files { files: several(input, 4, file)?, more: input.arbitrary()? },
        5 => Response::Playing { admission: admission(input)?, take: take(input)? },
        6 => Response::Paused,
        7 => Response::Contents {
            length: input.arbitrary()?,
            digest: digest(input)?,
            offset: input.arbitrary()?,
        },
        8 => Response::Thumbnail { jpeg: maybe(input, few_bytes)? },
        9 => Response::Unplayable { reason: text(input)? },
        _ => Response::Knocking,
    })
}

fn notice(input: &mut Input<'_>) -> Result<Notice> {
    Ok(match input.int_in_range(0..=8u8)? {
        0 => Notice::Key { key: key(input)? },
        1 => Notice::Ended,
        2 => Notice::Removed,
        3 => Notice::Carries { bits_per_second: input.arbitrary()?, lag_ms: input.arbitrary()? },
        4 => Notice::LeftOut {
            packets: several(input, 4, |input| {
                let (ssrc, first) = (input.arbitrary()?, input.arbitrary()?);
                Ok(LeftOut { ssrc, first, count: input.arbitrary()? })
            })?,
        },
        5 => {
            let ends = several(input, 3, |input| input.arbitrary())?;
            Notice::Finished { ends, damaged: maybe(input, text)? }
        }
        6 => Notice::Rendition {
            track: track(input)?,
            before: input.arbitrary()?,
            end: input.arbitrary()?,
        },
        7 => Notice::Source { away_ms: input.arbitrary()? },
        _ => Notice::Interrupted,
    })
}

fn maybe<'a, T>(
    input: &mut Input<'a>,
    one: impl FnOnce(&mut Input<'a>) -> Result<T>,
) -> Result<Option<T>> {
    if input.arbitrary()? { one(input).map(Some) } else { Ok(None) }
}

fn digest(input: &mut Input<'_>) -> Result<Digest> {
    input.arbitrary().map(Digest)
}

fn file(input: &mut Input<'_>) -> Result<FileEntry> {
    let track = |input: &mut Input<'_>| {
        Ok(StoredTrack {
            kind: *input.choose(&[Kind::Video, Kind::Audio])?,
            codec: text(input)?,
            detail: text(input)?,
            passes_through: input.arbitrary()?,
            language: maybe(input, text)?,
        })
    };
    let media = |input: &mut Input<'_>| {
        let duration_us = input.arbitrary()?;
        Ok(StoredMedia { duration_us, tracks: several(input, 3, track)? })
    };
    Ok(FileEntry {
        path: text(input)?,
        bytes: input.arbitrary()?,
        modified: input.arbitrary()?,
        media: maybe(input, media)?,
        problem: maybe(input, text)?,
        digest: maybe(input, digest)?,
        has_thumbnail: input.arbitrary()?,
    })
}

fn take(input: &mut Input<'_>) -> Result<Take> {
    Ok(Take {
        position_us: input.arbitrary()?,
        captured_us: input.arbitrary()?,
        rate_percent: input.arbitrary()?,
        duration_us: input.arbitrary()?,
        pace_bps: input.arbitrary()?,
        transcoded: text(input)?,
    })
}

fn secret(input: &mut Input<'_>) -> Result<Option<Secret>> {
    few_bytes(input).map(Secret::new)
}

fn key(input: &mut Input<'_>) -> Result<MasterKey> {
    let [_, a, b, c] = input.arbitrary::<[u8; 4]>()?;
    let epoch = Epoch::from_mki([WIRE_VERSION, a, b, c]).expect("the version is ours");
    Ok(MasterKey::from_parts(epoch, input.arbitrary()?, input.arbitrary()?))
}

fn format(input: &mut Input<'_>) -> Result<Format> {
    Ok(Format {
        kind: *input.choose(&[Kind::Video, Kind::Audio])?,
        encoding_name: text(input)?,
        payload_type: input.arbitrary()?,
        clock_rate: input.arbitrary()?,
        channels: input.arbitrary()?,
        parameters: several(input, 3, |input| Ok((text(input)?, text(input)?)))?
            .into_iter()
            .collect(),
        rendition: if input.arbitrary()? { Some(text(input)?) } else { None },
    })
}

fn track(input: &mut Input<'_>) -> Result<Track> {
    Ok(Track {
        format: format(input)?,
        ssrc: input.arbitrary()?,
        first_index: input.arbitrary()?,
        live_index: input.arbitrary()?,
        rtp_timestamp: input.arbitrary()?,
        captured_us: input.arbitrary()?,
    })
}

fn admission(input: &mut Input<'_>) -> Result<Admission> {
    Ok(Admission {
        viewer: input.arbitrary()?,
        tracks: several(input, 3, track)?,
        keys: several(input, 9, key)?,
        capture_now_us: input.arbitrary()?,
        send_lag_us: input.arbitrary()?,
        viewer_tag: input.arbitrary()?,
        feedback_key: FeedbackKey::from_parts(input.arbitrary()?, input.arbitrary()?),
    })
}
