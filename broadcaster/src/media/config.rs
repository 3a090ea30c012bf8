//! What the user may set about the source and its encoding.

use std::time::Duration;

use protocol::units::Bitrate;
use serde::{Deserialize, Serialize};

use super::duration;
use super::encoders::Encoder;
use super::spec::SourceSpec;

/// A source and how it is encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaConfig {
    /// What is broadcast.
    pub source: SourceSpec,
    /// How raw pictures are encoded.
    pub video: VideoConfig,
    /// How raw sound is encoded.
    pub audio: AudioConfig,
}

/// How raw pictures are encoded. Pictures that come encoded are passed through as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoConfig {
    /// What encodes.
    pub encoder: Encoder,
    /// What the encoder keeps to, over any few pictures.
    pub bitrate: Bitrate,
    /// Greatest width in pixels. A larger picture is scaled down, keeping its shape; a smaller one
    /// is left alone. The test picture and a camera's are asked for in this size.
    pub width: u32,
    /// Greatest height in pixels, likewise.
    pub height: u32,
    /// Greatest number of pictures a second; those that come faster are thinned out.
    pub framerate: u32,
    /// Time from one keyframe to the next. A short one costs bits, a long one makes each viewer's
    /// joining burst longer.
    #[serde(with = "duration")]
    pub keyframe_interval: Duration,
    /// Smaller renditions of the same picture, best first: each viewer is sent the best that its path carries.
    pub renditions: Vec<RenditionConfig>,
}

/// A smaller rendition of the picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenditionConfig {
    /// What viewers call it; by default its height, as in `360p`.
    #[serde(default)]
    pub name: Option<String>,
    /// Greatest height in pixels.
    pub height: u32,
    /// What the encoder keeps to.
    pub bitrate: Bitrate,
    /// Greatest number of pictures a second; by default as many as the largest rendition has.
    #[serde(default)]
    pub framerate: Option<u32>,
}

/// Smaller renditions that there may be: with the largest they are three.
const MOST_RENDITIONS: usize = 2;

/// How raw sound is encoded: Opus at 48 kHz, one or two channels, 20 ms to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioConfig {
    /// The same for each packet.
    pub bitrate: Bitrate,
}

impl Default for VideoConfig {
    fn default() -> Self {
        Self {
            encoder: Encoder::default(),
            bitrate: Bitrate::bits_per_second(2_500_000),
            width: 1280,
            height: 720,
            framerate: 30,
            keyframe_interval: Duration::from_secs(2),
            renditions: Vec::new(),
        }
    }
}

impl VideoConfig {
    /// All renditions, best first, as if each were the only one.
    pub fn all(&self) -> Vec<Self> {
        let smaller = |rendition: &RenditionConfig| Self {
            bitrate: rendition.bitrate,
            height: rendition.height.min(self.height),
            framerate: rendition.framerate.unwrap_or(self.framerate).min(self.framerate),
            renditions: Vec::new(),
            ..self.clone()
        };
        let first = Self { renditions: Vec::new(), ..self.clone() };
        std::iter::once(first).chain(self.renditions.iter().map(smaller)).collect()
    }

    /// Has a rendition keep to another rate; the picture itself is number 0.
    pub(crate) fn set_bitrate(&mut self, rendition: usize, rate: Bitrate) {
        match rendition.checked_sub(1) {
            None => self.bitrate = rate,
            Some(at) => {
                if let Some(smaller) = self.renditions.get_mut(at) {
                    smaller.bitrate = rate;
                }
            }
        }
    }

    /// What is wrong with the renditions.
    fn wrong_renditions(&self) -> Option<String> {
        if self.renditions.len() > MOST_RENDITIONS {
            return Some(format!(
                "video.renditions has {} entries; at most {MOST_RENDITIONS} beside the picture itself",
                self.renditions.len()
            ));
        }
        let name = |rendition: &RenditionConfig| rendition.name.clone();
        let illegal = |name: &String| name.is_empty() || name.len() > 100 || name.contains('/');
        if let Some(name) = self.renditions.iter().filter_map(name).find(illegal) {
            return Some(format!(
                "'{name}' can't be the name of a rendition; it has 1 to 100 bytes, and no '/'"
            ));
        }
        let all = self.all();
        let falls = all
            .windows(2)
            .all(|pair| pair[1].bitrate < pair[0].bitrate && pair[1].height <= pair[0].height);
        (!falls).then(|| {
            "video.renditions must be smaller each than the one before, in bitrate and height, and than video.bitrate"
                .to_owned()
        })
    }
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self { bitrate: Bitrate::bits_per_second(96_000) }
    }
}

impl MediaConfig {
    /// Names the first setting that no encoder could honour.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self { video, audio, .. } = self;
        let rate = |rate: Bitrate| rate.as_bits_per_second() as f64;
        let keyframe_interval = video.keyframe_interval.as_secs_f64();
        let checks = [
            ("video.bitrate", rate(video.bitrate), 10_000.0..=100e6, "bit/s"),
            ("video.width", f64::from(video.width), 16.0..=8192.0, "pixels"),
            ("video.height", f64::from(video.height), 16.0..=8192.0, "pixels"),
            ("video.framerate", f64::from(video.framerate), 1.0..=240.0, "pictures a second"),
            ("video.keyframe_interval", keyframe_interval, 0.1..=60.0, "s"),
            // Above this an Opus packet of 20 ms outgrows an RTP packet.
            ("audio.bitrate", rate(audio.bitrate), 6_000.0..=400e3, "bit/s"),
        ];
        let smaller = video.renditions.iter().flat_map(|rendition| {
            let framerate = rendition.framerate.unwrap_or(video.framerate);
            [
                ("bitrate of a rendition", rate(rendition.bitrate), 10_000.0..=100e6, "bit/s"),
                ("height of a rendition", f64::from(rendition.height), 16.0..=8192.0, "pixels"),
                (
                    "framerate of a rendition",
                    f64::from(framerate),
                    1.0..=240.0,
                    "pictures a second",
                ),
            ]
        });
        let wrong =
            checks.into_iter().chain(smaller).find(|(_, value, range, _)| !range.contains(value));
        let wrong = wrong.map(|(name, value, range, unit)| {
            format!("{name} is {value}; expected {} to {} {unit}", range.start(), range.end())
        });
        wrong.or_else(|| video.wrong_renditions())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_legal_and_odd_values_are_named() {
        assert_eq!(MediaConfig::default().problem(), None);
        let wrong = MediaConfig {
            video: VideoConfig { framerate: 0, ..VideoConfig::default() },
            ..MediaConfig::default()
        };
        let problem = wrong.problem().expect("0 pictures a second");
        assert!(problem.contains("video.framerate"), "{problem}");
    }

    #[test]
    fn renditions_are_smaller_each() {
        let text = "video: {bitrate: 4M, renditions: [{height: 480, bitrate: 1500k}, \
                    {name: small, height: 240, bitrate: 500k, framerate: 15}]}";
        let config: MediaConfig = serde_yaml::from_str(text).expect("legal");
        assert_eq!(config.problem(), None);
        let all = config.video.all();
        let seen: Vec<_> = all.iter().map(|one| (one.height, one.framerate)).collect();
        assert_eq!(seen, [(720, 30), (480, 30), (240, 15)]);
        for wrong in [
            "{height: 480, bitrate: 5M}",
            "{height: 1080, bitrate: 1M}, {height: 480, bitrate: 2M}",
            "{height: 480, bitrate: 1M}, {height: 240, bitrate: 900k}, {height: 120, bitrate: 500k}",
            "{height: 4, bitrate: 1M}",
        ] {
            let text = format!("video: {{bitrate: 4M, renditions: [{wrong}]}}");
            let config: MediaConfig = serde_yaml::from_str(&text).expect("legal YAML");
            assert!(
                config.problem().is_some_and(|problem| problem.contains("rendition")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn configuration_reads_as_documented() {
        let text = "source: pipeline:videotestsrc\nvideo: {bitrate: 4M, keyframe_interval: 500ms}\naudio: {bitrate: 64000}\n";
        let config: MediaConfig = serde_yaml::from_str(text).expect("legal");
        assert_eq!(config.source, SourceSpec::Pipeline("videotestsrc".to_owned()));
        assert_eq!(config.video.bitrate, Bitrate::bits_per_second(4_000_000));
        assert_eq!(config.video.keyframe_interval, Duration::from_millis(500));
        assert_eq!(config.audio.bitrate, Bitrate::bits_per_second(64_000));
        let again = serde_yaml::to_string(&config).expect("serializes");
        assert_eq!(serde_yaml::from_str::<MediaConfig>(&again).expect("legal"), config);
        let unknown = serde_yaml::from_str::<MediaConfig>("video: {bitrat: 1M}").expect_err("typo");
        assert!(unknown.to_string().contains("bitrat"), "{unknown}");
    }
}
