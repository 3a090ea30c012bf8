//! The seek bar: drawn into pictures on their way to the window, over their whole width, so that where it is clicked
//! is the position meant.

use std::sync::atomic::{AtomicI32, Ordering};

use gstreamer as gst;
use gstreamer_video as gst_video;

/// Share of the picture's height, from below, in which a click means a position.
pub(super) const CLICKS: f64 = 0.12;

/// Its own height and its distance from the picture's lower edge, as parts of the picture's height.
const THICKNESS: usize = 40;
const FROM_BELOW: usize = 20;

/// Brightness of what has been played, and of the rest.
const PLAYED: u8 = 235;
const REST: u8 = 48;

/// Of one pixel, in parts of the whole.
const WHOLE: f64 = 1e6;

/// What is to be drawn now.
#[derive(Debug)]
pub(super) struct Bar(AtomicI32);

impl Default for Bar {
    fn default() -> Self {
        Self(AtomicI32::new(-1))
    }
}

impl Bar {
    /// Shows that share as played, 0 to 1; no bar for `None`. True where that is news.
    pub(super) fn show(&self, share: Option<f64>) -> bool {
        let parts = share.map_or(-1, |share| (share.clamp(0.0, 1.0) * WHOLE) as i32);
        let before = self.0.swap(parts, Ordering::Relaxed);
        (before < 0) != (parts < 0)
    }

    fn share(&self) -> Option<f64> {
        let parts = self.0.load(Ordering::Relaxed);
        (parts >= 0).then(|| f64::from(parts) / WHOLE)
    }

    /// Draws into a picture, where there is something to draw. Pictures whose brightness does not lie in bytes of
    /// its own stay as they are.
    pub(super) fn draw(&self, buffer: &mut gst::Buffer, caps: &gst::CapsRef) {
        let Some(share) = self.share() else { return };
        let Ok(info) = gst_video::VideoInfo::from_caps(caps) else { return };
        let format = info.format_info();
        if !(format.is_yuv() || format.is_gray()) || format.depth().first() != Some(&8) {
            return;
        }
        let buffer = buffer.make_mut();
        let Ok(mut frame) = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &info)
        else {
            return;
        };
        let size = (info.width() as usize, info.height() as usize);
        let (plane, offset) = (format.plane()[0], format.poffset()[0] as usize);
        let step = format.pixel_stride()[0] as usize;
        let stride = info.stride()[plane as usize].unsigned_abs() as usize;
        if let Ok(bytes) = frame.plane_data_mut(plane) {
            draw(bytes.get_mut(offset..).unwrap_or_default(), size, (stride, step), share);
        }
    }
}

/// Draws into brightness: `size` in pixels, `stride` and `step` in bytes from line to line and pixel to pixel.
fn draw(
    luma: &mut [u8],
    (width, height): (usize, usize),
    (stride, step): (usize, usize),
    share: f64,
) {
    let played = (width as f64 * share).round() as usize;
    let bottom = height - height / FROM_BELOW;
    for line in bottom.saturating_sub((height / THICKNESS).max(2))..bottom {
        for column in 0..width {
            if let Some(pixel) = luma.get_mut(line * stride + column * step) {
                *pixel = if column < played { PLAYED } else { REST };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_what_was_played() {
        let mut luma = vec![100; 100 * 40];
        draw(&mut luma, (80, 40), (100, 1), 0.25);
        let line = |at: usize| &luma[at * 100..][..100];
        assert!(line(35).iter().all(|pixel| *pixel == 100));
        assert!(line(38).iter().all(|pixel| *pixel == 100));
        for at in [36, 37] {
            assert_eq!(line(at)[..20], [PLAYED; 20]);
            assert_eq!(line(at)[20..80], [REST; 60]);
            assert_eq!(line(at)[80..], [100; 20]);
        }
    }

    #[test]
    fn it_is_drawn_into_brightness_alone_and_only_while_it_is_shown() {
        gst::init().expect("GStreamer starts");
        let bar = Bar::default();
        for (format, drawn) in [
            (gst_video::VideoFormat::I420, true),
            (gst_video::VideoFormat::Nv12, true),
            (gst_video::VideoFormat::Yuy2, true),
            (gst_video::VideoFormat::I42010le, false),
            (gst_video::VideoFormat::Bgrx, false),
        ] {
            let info = gst_video::VideoInfo::builder(format, 64, 64).build().expect("a format");
            let caps = info.to_caps().expect("caps");
            let blank = gst::Buffer::from_mut_slice(vec![128u8; info.size()]);
            let mut picture = blank.clone();
            bar.draw(&mut picture, &caps);
            let bytes = |buffer: &gst::Buffer| buffer.map_readable().expect("memory").to_vec();
            assert_eq!(bytes(&picture), bytes(&blank), "{format:?}: nothing is shown");
            assert!(bar.show(Some(0.5)), "it appears");
            assert!(!bar.show(Some(0.6)), "it moves");
            bar.draw(&mut picture, &caps);
            let changed = bytes(&picture).iter().filter(|byte| **byte != 128).count();
            assert_eq!(changed, if drawn { 64 * 2 } else { 0 }, "{format:?}");
            assert!(bar.show(None), "it goes");
        }
    }
}
