//! Sealed packets are SRTP as others know it: libsrtp, through GStreamer's `srtpdec`, opens them.

use std::time::Instant;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use protocol::burst::PlainBurst;
use protocol::seal::{Epoch, MasterKey, Sealer};

const SSRC: u32 = 0x1234_5678;

#[test]
fn libsrtp_opens_what_we_seal() -> Result<(), Box<dyn std::error::Error>> {
    gst::init()?;
    let key = MasterKey::from_parts(Epoch::FIRST, [0x2b; 16], [0x5c; 12]);
    let mut sealer = Sealer::new(&key, &[SSRC]);
    let payloads: Vec<Vec<u8>> = (0..50u8).map(|at| vec![at; 40 + usize::from(at) * 20]).collect();

    let pipeline = gst::Pipeline::new();
    let source = gst_app::AppSrc::builder().format(gst::Format::Time).build();
    let caps = gst::Caps::builder("application/x-srtp")
        .field("payload", 96i32)
        .field("ssrc", SSRC)
        .field("srtp-key", gst::Buffer::from_slice(key.export()))
        .field("mki", gst::Buffer::from_slice(key.epoch.mki()))
        .field("srtp-cipher", "aes-128-gcm")
        .field("srtp-auth", "null")
        .field("srtcp-cipher", "aes-128-gcm")
        .field("srtcp-auth", "null")
        .build();
    source.set_caps(Some(&caps));
    let decoder = gst::ElementFactory::make("srtpdec").build()?;
    let sink = gst_app::AppSink::builder().sync(false).build();
    pipeline.add_many([source.upcast_ref(), &decoder, sink.upcast_ref()])?;
    source.link_pads(None, &decoder, Some("rtp_sink"))?;
    decoder.link_pads(Some("rtp_src"), &sink, None)?;
    pipeline.set_state(gst::State::Playing)?;

    for payload in &payloads {
        let mut header = [0u8; 12];
        header[..2].copy_from_slice(&[0x80, 96]);
        let mut burst = PlainBurst::default();
        burst.push([&header[..], payload])?;
        let sealed = sealer.seal(0, true, Instant::now(), burst)?;
        source.push_buffer(gst::Buffer::from_slice(sealed.bytes().clone()))?;
    }
    for (index, payload) in payloads.iter().enumerate() {
        let sample = sink
            .try_pull_sample(gst::ClockTime::from_seconds(10))
            .ok_or_else(|| format!("packet {index} was not opened"))?;
        let buffer = sample.buffer().ok_or("a sample without a buffer")?;
        let opened = buffer.map_readable()?;
        assert_eq!(&opened[2..4], (index as u16).to_be_bytes());
        assert_eq!(&opened[12..], payload);
    }
    pipeline.set_state(gst::State::Null)?;
    Ok(())
}
