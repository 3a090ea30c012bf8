//! Several live channels in one configuration, each with its source.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::units::Bitrate;
use serde::{Deserialize, Serialize};
use service::exit::Failure;

use super::Config;
use crate::media::{AudioConfig, Encoder, MediaConfig, RenditionConfig, SourceSpec, VideoConfig};

/// Live channels of one broadcaster, at most: each has a process that captures and a thread that sends.
pub const MOST_CHANNELS: usize = 16;

/// One of several live channels, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// Its name, the last part of its link.
    pub name: String,
    /// What it streams.
    pub source: SourceSpec,
    /// How its raw pictures are encoded, where that differs from what is set for all channels.
    #[serde(default)]
    pub video: VideoChanges,
    /// How its raw sound is encoded, likewise.
    #[serde(default)]
    pub audio: AudioChanges,
}

/// What differs from [`VideoConfig`]: the same keys, each of which may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoChanges {
    encoder: Option<Encoder>,
    bitrate: Option<Bitrate>,
    width: Option<u32>,
    height: Option<u32>,
    framerate: Option<u32>,
    keyframe_interval: Option<Interval>,
    renditions: Option<Vec<RenditionConfig>>,
}

/// What differs from [`AudioConfig`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioChanges {
    bitrate: Option<Bitrate>,
}

/// A time, written as `2s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Interval(#[serde(with = "crate::media::duration")] Duration);

impl VideoChanges {
    fn of(&self, all: &VideoConfig) -> VideoConfig {
        let changes = self.clone();
        VideoConfig {
            encoder: changes.encoder.unwrap_or(all.encoder),
            bitrate: changes.bitrate.unwrap_or(all.bitrate),
            width: changes.width.unwrap_or(all.width),
            height: changes.height.unwrap_or(all.height),
            framerate: changes.framerate.unwrap_or(all.framerate),
            keyframe_interval: changes
                .keyframe_interval
                .map_or(all.keyframe_interval, |Interval(interval)| interval),
            renditions: changes.renditions.unwrap_or_else(|| all.renditions.clone()),
        }
    }
}

impl AudioChanges {
    fn of(&self, all: &AudioConfig) -> AudioConfig {
        AudioConfig { bitrate: self.bitrate.unwrap_or(all.bitrate) }
    }
}

/// A live channel with all that is set for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveConfig {
    pub(crate) name: String,
    pub(crate) media: MediaConfig,
}

impl Config {
    /// The live channels; none where only stored files are offered.
    pub(crate) fn live_channels(&self) -> Vec<LiveConfig> {
        if self.channels.is_empty() {
            let media = MediaConfig {
                source: self.source.clone(),
                video: self.video.clone(),
                audio: self.audio.clone(),
            };
            let is_live = media.source != SourceSpec::None;
            return is_live
                .then(|| LiveConfig { name: self.channel.clone(), media })
                .into_iter()
                .collect();
        }
        let resolved = |channel: &ChannelConfig| LiveConfig {
            name: channel.name.clone(),
            media: MediaConfig {
                source: channel.source.clone(),
                video: channel.video.of(&self.video),
                audio: channel.audio.of(&self.audio),
            },
        };
        self.channels.iter().map(resolved).collect()
    }

    /// Names of the channels that there are links to; one at least.
    pub(crate) fn channel_names(&self) -> Vec<&str> {
        match &self.channels[..] {
            [] => vec![&self.channel],
            several => several.iter().map(|channel| channel.name.as_str()).collect(),
        }
    }

    /// Whether the live channels make sense together.
    pub(super) fn check_channels(&self) -> Result<(), Failure> {
        let legal = |name: &str| !name.is_empty() && !name.contains('/') && name.len() <= 100;
        let mut seen = BTreeSet::new();
        for name in self.channel_names() {
            if !legal(name) {
                return Err(Failure::usage(format!(
                    "'{name}' is no channel name: 1 to 100 bytes without a slash"
                )));
            }
            if !seen.insert(name) {
                return Err(Failure::usage(format!("two channels have the name '{name}'")));
            }
        }
        if self.channels.is_empty() {
            return Ok(());
        }
        if self.channels.len() > MOST_CHANNELS {
            return Err(Failure::usage(format!(
                "{} channels are configured; one broadcaster has {MOST_CHANNELS} at most: run another beside it",
                self.channels.len()
            )));
        }
        let (source, channel) = (SourceSpec::default(), Self::default().channel);
        if self.source != source || self.channel != channel {
            return Err(Failure::usage(
                "both `channels` and a single source or channel name are given; name the source and the name of each \
                 channel under `channels` alone",
            ));
        }
        if let Some(channel) = self.channels.iter().find(|one| one.source == SourceSpec::None) {
            return Err(Failure::usage(format!(
                "channel '{}' has source none; leave it out of `channels`",
                channel.name
            )));
        }
        for LiveConfig { name, media } in self.live_channels() {
            if let Some(problem) = media.problem() {
                return Err(Failure::usage(format!("channel '{name}': {problem}")));
            }
        }
        if self.offer && self.channels.len() > 1 {
            return Err(Failure::usage(
                "an offer leads to one channel; several need a rendezvous, which may be --embedded-rendezvous",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> Result<Config, String> {
        let config: Config = service::config::parse(yaml).map_err(|error| error.to_string())?;
        config.check_channels().map_err(|failure| failure.message)?;
        Ok(config)
    }

    const TWO: &str = "
video: {bitrate: 1M, framerate: 25}
channels:
  - name: door
    source: test
    video: {height: 360, bitrate: 300k, keyframe_interval: 4s}
  - name: yard
    source: 'rtsp://camera.example/1'
    audio: {bitrate: 24k}
";

    #[test]
    fn what_a_channel_leaves_out_is_as_for_all() {
        let config = config(TWO).expect("two channels");
        assert_eq!(config.channel_names(), ["door", "yard"]);
        let [door, yard] = &config.live_channels()[..] else { panic!("two are configured") };
        assert_eq!((&*door.name, &door.media.source), ("door", &SourceSpec::Test));
        let video = &door.media.video;
        let rates =
            (video.bitrate.as_bits_per_second(), video.framerate, video.height, video.width);
        assert_eq!(rates, (300_000, 25, 360, 1280));
        assert_eq!(video.keyframe_interval, Duration::from_secs(4));
        assert_eq!(yard.media.video, config.video);
        assert_eq!(yard.media.audio.bitrate.as_bits_per_second(), 24_000);
        assert_eq!(door.media.audio, config.audio);
    }

    #[test]
    fn one_source_is_one_channel_and_none_is_none() {
        let one = config("channel: garden\nsource: test").expect("one").live_channels();
        assert!(matches!(&one[..], [one] if one.name == "garden"), "{one:?}");
        let none = config("source: none\nlibrary: /tmp").expect("a library");
        assert_eq!(none.live_channels(), []);
        assert_eq!(none.channel_names(), ["live"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let many: String =
            (0..=MOST_CHANNELS).map(|n| format!("\n  - {{name: a{n}, source: test}}")).collect();
        for (yaml, expected) in [
            (TWO.replace("yard", "door"), "two channels have the name 'door'"),
            (TWO.replace("yard", "a/b"), "'a/b' is no channel name"),
            (format!("source: screen{TWO}"), "both `channels` and a single source"),
            (format!("channel: a{TWO}"), "both `channels` and a single source"),
            (TWO.replace("source: test", "source: none"), "'door' has source none"),
            (TWO.replace("height", "heigth"), "heigth"),
            (TWO.replace("source: test", "sauce: test"), "sauce"),
            (TWO.replace("300k", "3k"), "channel 'door': video.bitrate"),
            (format!("offer: true{TWO}"), "one channel"),
            (format!("channels:{many}"), "16 at most"),
            ("channels:\n  - source: test".to_owned(), "name"),
        ] {
            let error = config(&yaml).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
