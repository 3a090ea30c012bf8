//! Real servers and senders on loopback, and what comes of them bit for bit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use protocol::media::Format;
use rtmp_runtime::client::{ClientConfig, ClientSession};

use super::super::tests::run_to_end;
use super::super::{
    Continuation, Entrance, Event, MediaConfig, Producer, SourceSpec, Unit, elements,
};

/// Nothing here takes as long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const H264: &str =
    "x264enc speed-preset=superfast key-int-max=10 bframes=2 b-adapt=false ! h264parse";
const H265: &str = "x265enc speed-preset=ultrafast key-int-max=10 ! h265parse";

#[test]
fn cameras_pass_through_bit_for_bit() {
    for (codec, encoder, payload, options) in [
        ("H264", H264, "h264parse ! rtph264pay", ""),
        ("H265", H265, "h265parse ! rtph265pay", ""),
        ("H264", H264, "h264parse ! rtph264pay", "#transport=udp"),
    ] {
        let film = Film::new(encoder, G711);
        let camera = Camera::start("0", &film.served(payload), &[]);
        let url = format!("rtsp://127.0.0.1:{}/live{options}", camera.port);
        let mut run = Run::start(&url, None).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(run.names(), [codec, "OPUS"], "G.711 becomes Opus");
        let units = run.units_until(50);
        film.assert_same(codec, &units);
        let sound = units.iter().filter(|unit| unit.track == 1).count();
        assert!(sound > 50, "{sound} packets of sound");
    }
}

#[test]
fn a_camera_that_goes_away_comes_back_in_time() {
    let film = Film::new(H264, G711);
    let launch = film.served("h264parse ! rtph264pay");
    let camera = Camera::start("0", &launch, &[]);
    let port = camera.port.clone();
    let url = format!("rtsp://127.0.0.1:{port}/live");
    let mut run = Run::start(&url, None).expect("it is there");
    assert_eq!(run.names(), ["H264", "OPUS"]);
    let before = run.units_until(30);
    film.assert_same("H264", &before);
    drop(camera);
    let error = run.failure();
    assert!(error.contains("rtsp"), "{error}");
    let continuation = run.producer.continuation();
    drop(run);
    // Nobody is there yet.
    let away = Run::start(&url, Some(&continuation)).err().expect("there is none");
    assert!(!away.contains('\n'), "{away}");
    let _again = Camera::start(&port, &launch, &[]);
    let begun = Instant::now();
    let mut run = Run::start(&url, Some(&continuation)).expect("it is back");
    let after = run.units_until(30);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    film.assert_same("H264", &after);
    let pictures = |units: &[Unit]| -> Vec<(Instant, u32)> {
        let pictures = units.iter().filter(|unit| unit.track == 0);
        pictures.map(|unit| (unit.captured_at, unit.rtp_timestamp)).collect()
    };
    let (last, first) = (pictures(&before)[29], pictures(&after)[0]);
    let captured = first.0.duration_since(last.0).as_secs_f64();
    let rtp = f64::from(first.1.wrapping_sub(last.1)) / 90_000.0;
    assert!(captured > 0.0 && (captured - rtp).abs() < 0.002, "{captured} s, in RTP {rtp} s");
}

#[test]
fn a_login_opens_and_is_never_told() {
    let film = Film::new(H264, G711);
    let launch = film.served("h264parse ! rtph264pay");
    let camera = Camera::start("0", &launch, &["ann", "h@sh"]);
    let url = |login: &str| format!("rtsp://{login}127.0.0.1:{}/live", camera.port);
    for wrong in ["", "ann:husher@"] {
        let error = Run::start(&url(wrong), None).err().expect("refused");
        assert!(error.contains("nauthorized") && !error.contains("hush"), "{error}");
    }
    let mut run = Run::start(&url("ann:h%40sh@"), None).expect("let in");
    run.units_until(5);
}

#[test]
fn a_camera_with_a_certificate_of_its_own_is_asked_if_the_user_says_so() {
    let film = Film::new(H264, G711);
    let file = |name: &str| film.folder.path().join(name).display().to_string();
    let (key, certificate) = (file("key.pem"), file("certificate.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=camera"])
        .args(["-keyout", &key, "-out", &certificate])
        .stderr(Stdio::null())
        .status()
        .expect("openssl runs; install the packages of scripts/install.sh test");
    assert!(made.success(), "{made}");
    let both = [&key, &certificate].map(|path| std::fs::read(path).expect("it was made")).concat();
    std::fs::write(&certificate, both).expect("written");
    let login = ["ann", "hush", &certificate];
    let camera = Camera::start("0", &film.served("h264parse ! rtph264pay"), &login);
    let url = format!("rtsps://ann:hush@127.0.0.1:{}/live", camera.port);
    let refused = Run::start(&url, None).err().expect("nobody vouches for it");
    assert!(!refused.contains("hush"), "{refused}");
    let mut run = Run::start(&format!("{url}#tls=unverified"), None).expect("it is asked");
    film.assert_same("H264", &run.units_until(20));
}

#[test]
fn senders_by_srt_pass_through_bit_for_bit() {
    let film = Film::new(H264, AAC);
    let port = free_port();
    let url = format!("srt://127.0.0.1:{port}?mode=listener&passphrase=long%20enough");
    let send = || {
        let to = format!("srt://127.0.0.1:{port}?passphrase=long%20enough&pbkeylen=16");
        let to = to.replace("%20", " ");
        ffmpeg(&["-re", "-i", film.path(), "-c", "copy", "-f", "mpegts", &to])
    };
    let waiting = Waiting::start(&url, None);
    let sender = send();
    let mut run = waiting.ready().expect("it is sent");
    assert_eq!(run.names(), ["H264", "MPEG4-GENERIC"]);
    film.assert_same("H264", &run.units_until(50));
    sender.end();
    let error = run.failure();
    assert!(error.contains("has ended") && !error.contains("long"), "{error}");
    let continuation = run.producer.continuation();
    drop(run);
    let waiting = Waiting::start(&url, Some(&continuation));
    let _again = send();
    let mut run = waiting.ready().expect("it is sent again");
    assert_eq!(run.names(), ["H264", "MPEG4-GENERIC"]);
    film.assert_same("H264", &run.units_until(30));
}

#[test]
fn pictures_wait_for_the_sound_that_is_packed_behind_them() {
    let film = Film::new(H264, AAC);
    let port = free_port();
    let waiting = Waiting::start(&format!("srt://127.0.0.1:{port}?mode=listener"), None);
    // Silence is small, so ffmpeg packs a third of a second of it together.
    let mut arguments = vec!["-re", "-i", film.path(), "-c:v", "copy", "-af", "volume=0"];
    let to = format!("srt://127.0.0.1:{port}");
    arguments.extend(["-c:a", "aac", "-f", "mpegts", &to]);
    let _sender = ffmpeg(&arguments);
    let units = waiting.ready().expect("it is sent").units_until(200);
    let mut sound = None;
    let mut behind = Vec::new();
    for unit in &units {
        match (unit.track, sound) {
            (1, _) => sound = Some(unit.captured_at),
            (_, Some(sound)) => behind.push(unit.captured_at.saturating_duration_since(sound)),
            _ => {}
        }
    }
    // It is known how deep they lie once the first came. Pictures are sent up to 0.12 s before they are shown.
    // Nearly all: a machine at work may hold up a thread. Half of them are farther ahead where nothing waits.
    let last = &behind[behind.len() - 100..];
    let ahead = last.iter().filter(|behind| **behind > Duration::from_millis(250)).count();
    assert!(ahead <= 10, "{ahead} of 100 pictures do not wait for their sound: {last:?}");
}

#[test]
fn senders_by_rtp_pass_through_bit_for_bit() {
    let film = Film::new(H264, AAC);
    let port = free_port();
    let waiting = Waiting::start(&format!("rtp://127.0.0.1:{port}"), None);
    let to = format!("rtp://127.0.0.1:{port}?pkt_size=1316");
    let sender = ffmpeg(&["-re", "-i", film.path(), "-c", "copy", "-f", "rtp_mpegts", &to]);
    let mut run = waiting.ready().expect("it is sent");
    assert_eq!(run.names(), ["H264", "MPEG4-GENERIC"]);
    film.assert_same("H264", &run.units_until(50));
    drop(sender);
    let error = run.failure();
    assert!(error.contains("has sent nothing for 4 s"), "{error}");

    let film = Film::new(H264, "opusenc");
    let unheard = UdpSocket::bind("127.0.0.1:0").expect("a port");
    unheard.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let port = unheard.local_addr().expect("an address").port();
    let _sender = Sender::start(&format!(
        "filesrc location={} ! matroskademux name=d \
         d.video_0 ! queue ! h264parse ! rtph264pay pt=96 config-interval=-1 \
         ! udpsink host=127.0.0.1 port={port} \
         d.audio_0 ! queue ! opusparse ! rtpopuspay pt=97 ! udpsink host=127.0.0.1 port={port}",
        film.path()
    ));
    // It has begun before anybody listens, and is between two keyframes.
    for _ in 0..40 {
        unheard.recv(&mut [0; 2000]).expect("it is sent");
    }
    drop(unheard);
    let waiting = Waiting::start(&format!("rtp://127.0.0.1:{port}?97=OPUS&96=H264"), None);
    let mut run = waiting.ready().expect("it is sent");
    assert_eq!(run.names(), ["OPUS", "H264"], "in the order that was written");
    let units = run.units_of(1, 50);
    film.assert_same_track("H264", 1, &units);
}

#[test]
fn publishers_by_rtmp_pass_through_bit_for_bit() {
    let film = Film::new(H264, AAC);
    let port = free_port();
    let url = format!("rtmp://127.0.0.1:{port}/live/k-1");
    let publish = |key: &str| {
        let to = format!("rtmp://127.0.0.1:{port}/{key}");
        ffmpeg(&["-re", "-i", film.path(), "-c", "copy", "-f", "flv", &to])
    };
    let source: SourceSpec = url.parse().expect("a source");
    let entrance = Entrance::of(&source).expect("it is free");
    let waiting = Waiting::start_at(&url, None, entrance.clone());
    for wrong in ["live/k-2", "live/k-11", "live/k", "film/k-1"] {
        let ended = publish(wrong).0.wait().expect("it was started here");
        assert!(!ended.success(), "{wrong} is let in");
    }
    let publisher = publish("live/k-1");
    let mut run = waiting.ready().expect("it is published");
    assert_eq!(run.names(), ["H264", "MPEG4-GENERIC"]);
    let units = run.units_until(50);
    film.assert_same("H264", &units);
    assert_in_sync(&units);
    let second = publish("live/k-1").0.wait().expect("it was started here");
    assert!(!second.success(), "there is one already");
    let more = run.units_until(20);
    assert_in_sync(&more);

    // Who is killed is noticed at once, and whoever comes next waits until it is its turn.
    drop(publisher);
    let error = run.failure();
    assert!(error.contains("has ended") && !error.contains("k-1"), "{error}");
    let _again = publish("live/k-1");
    let continuation = run.producer.continuation();
    drop(run);
    let waiting = Waiting::start_at(&url, Some(&continuation), entrance);
    let mut run = waiting.ready().expect("it is published");
    assert_eq!(run.names(), ["H264", "MPEG4-GENERIC"]);
    film.assert_same("H264", &run.units_until(30));
}

#[test]
fn h265_by_enhanced_rtmp_passes_through_bit_for_bit() {
    let film = Film::new(H265, AAC);
    let port = free_port();
    let waiting = Waiting::start(&format!("rtmp://127.0.0.1:{port}/live/k-1"), None);
    let mut publisher = Publisher::start(port);
    let (config, pictures) = film.coded("H265");
    publisher.send(0, &[b"\x90hvc1", &config[..]].concat());
    for (number, picture) in pictures.iter().enumerate() {
        let kind: &[u8] = if number == 0 { b"\x91hvc1\0\0\0" } else { b"\xa1hvc1\0\0\0" };
        let timestamp = u32::try_from(number).expect("few") * 40;
        publisher.send(timestamp, &[kind, picture].concat());
    }
    let mut run = waiting.ready().expect("it is published");
    assert_eq!(run.names(), ["H265"]);
    film.assert_same("H265", &run.units_until(200));
}

#[test]
fn strangers_keep_no_publisher_out() {
    let film = Film::new(H264, AAC);
    let port = free_port();
    let waiting = Waiting::start(&format!("rtmp://:{port}/live/k-1"), None);
    let stranger = || TcpStream::connect(("::1", port)).expect("it listens");
    let hello = [&[3; 1][..], &[0; 1536], &[0; 1536]].concat();
    // Nested lists, a great message in the smallest chunks, chunks of many streams, and nonsense.
    let chunks = [2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 16, 0];
    let command = [&b"\x02\0\x01a\0"[..], &[0; 8], &[10, 0, 0, 0, 1].repeat(400)].concat();
    let length = u32::try_from(command.len()).expect("it is short").to_be_bytes();
    let header = [&[3, 0, 0, 0][..], &length[1..], &[20, 0, 0, 0, 0]].concat();
    let nested = [&chunks[..], &header, &command].concat();
    let great = [&[3, 0, 0, 0, 0xff, 0xff, 0xff, 9, 0, 0, 0, 0][..], &[0; 128]].concat();
    let streams: Vec<u8> =
        (2..60).flat_map(|stream| [stream, 0, 0, 0, 0, 0, 9, 9, 1, 0, 0, 0, 7]).collect();
    for said in [&nested[..], &great, &streams, &[0xff; 20_000], &[0; 20_000]] {
        let mut stranger = stranger();
        // It may be turned away before it has said all.
        let _ = stranger.write_all(&[&hello[..], said].concat());
        let _ = stranger.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        assert!(answer.len() < 20_000, "{} bytes", answer.len());
    }
    // These say nothing at all.
    let silent: Vec<_> = (0..40).map(|_| stranger()).collect();
    let to = format!("rtmp://127.0.0.1:{port}/live/k-1");
    let _publisher = ffmpeg(&["-re", "-i", film.path(), "-c", "copy", "-f", "flv", &to]);
    let mut run = waiting.ready().expect("it is published");
    film.assert_same("H264", &run.units_until(20));
    drop(silent);
}

#[test]
fn a_port_in_use_is_told_in_words() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let source = format!("rtmp://{address}/live/hush").parse().expect("a source");
    let config = MediaConfig { source, ..MediaConfig::default() };
    let refused = Producer::start(config, Arc::new(|_| {})).err().expect("it is taken");
    let refused = refused.to_string();
    assert!(refused.contains(&format!("can't listen on {address}")), "{refused}");
}

/// Somebody who publishes pictures in Enhanced RTMP, which Debian's ffmpeg does not know.
struct Publisher {
    stream: TcpStream,
    session: ClientSession,
}

impl Publisher {
    fn start(port: u16) -> Self {
        let mut config = ClientConfig::default();
        (config.app, config.stream_key) = ("live".to_owned(), "k-1".to_owned());
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        let mut session = ClientSession::new(config);
        stream.write_all(&session.start()).expect("it listens");
        let mut bytes = vec![0; 4_096];
        while !session.is_publishing() {
            let count = stream.read(&mut bytes).expect("an answer in time");
            assert!(count > 0, "it is turned away");
            let (answer, _) = session.handle_data(&bytes[..count]).expect("an answer of RTMP");
            stream.write_all(&answer).expect("it listens");
        }
        Self { stream, session }
    }

    fn send(&mut self, timestamp: u32, video: &[u8]) {
        let message = self.session.send_video(timestamp, video).expect("it publishes");
        self.stream.write_all(&message).expect("it is taken");
    }
}

/// Pictures and sound that were one moment are one moment still: both begin the film, and neither runs ahead.
fn assert_in_sync(units: &[Unit]) {
    let of = |track| units.iter().filter(move |unit| unit.track == track);
    let (first, last) = (of(0).next().expect("a picture"), of(0).next_back().expect("a picture"));
    let between = |unit: &&Unit| (first.captured_at..=last.captured_at).contains(&unit.captured_at);
    // Frames of AAC hold 1,024 samples.
    let took = last.captured_at - first.captured_at;
    let expected = took.as_secs_f64() * 48_000.0 / 1_024.0;
    let sound = of(1).filter(between).count() as f64;
    assert!((sound - expected).abs() <= 8.0, "{sound} frames of sound in {took:?}");
}

/// As cameras send it.
const G711: &str = "audioresample ! audioconvert ! audio/x-raw,rate=8000,channels=1 ! alawenc";
const AAC: &str = "audioconvert ! avenc_aac ! aacparse";

/// A film of some seconds with a keyframe every ten pictures.
struct Film {
    folder: tempfile::TempDir,
}

impl Film {
    fn new(video: &str, audio: &str) -> Self {
        let film = Self { folder: tempfile::tempdir().expect("a folder") };
        elements::init().expect("GStreamer starts");
        run_to_end(&format!(
            "videotestsrc num-buffers=300 pattern=ball \
             ! video/x-raw,format=I420,width=320,height=180,framerate=25/1 ! {video} ! queue ! m. \
             audiotestsrc num-buffers=600 samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=2 \
             ! {audio} ! queue ! m. matroskamux name=m ! filesink location={}",
            film.path()
        ));
        film
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("film.mkv")
    }

    fn path(&self) -> &'static str {
        self.file().display().to_string().leak()
    }

    /// What a camera runs to send it.
    fn served(&self, payload: &str) -> String {
        format!(
            "( filesrc location={} ! matroskademux name=d \
             d.video_0 ! queue ! {payload} name=pay0 pt=96 config-interval=-1 \
             d.audio_0 ! queue ! rtppcmapay name=pay1 pt=8 )",
            self.path()
        )
    }

    /// What each access unit is made of, without what RTP leaves out or repeats.
    fn access_units(&self, codec: &str) -> Vec<Vec<Vec<u8>>> {
        let in_units = |picture: &Vec<u8>| {
            let mut rest: &[u8] = picture;
            let mut unit = Vec::new();
            while let Some((length, behind)) = rest.split_first_chunk::<4>() {
                let (nal, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
                unit.push(nal.to_vec());
                rest = behind;
            }
            without_repeated(codec, unit)
        };
        self.coded(codec).1.iter().map(in_units).collect()
    }

    /// What the decoder is told first, and the pictures as they are stored.
    fn coded(&self, codec: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (parser, form) = match codec {
            "H264" => ("h264parse", "video/x-h264,stream-format=avc"),
            _ => ("h265parse", "video/x-h265,stream-format=hvc1"),
        };
        let pipeline = gst::parse::launch(&format!(
            "filesrc location={} ! matroskademux name=d d.video_0 ! {parser} ! {form},alignment=au \
             ! appsink name=out sync=false",
            self.path()
        ))
        .expect("legal description");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        let sink = pipeline.by_name("out").and_downcast::<gst_app::AppSink>().expect("a sink");
        pipeline.set_state(gst::State::Playing).expect("plays");
        let (mut config, mut all) = (Vec::new(), Vec::new());
        while let Ok(sample) = sink.pull_sample() {
            let form = sample.caps().and_then(|caps| caps.structure(0)).expect("caps");
            let codec_data = form.get::<gst::Buffer>("codec_data").expect("a configuration");
            config = codec_data.map_readable().expect("readable").to_vec();
            let buffer = sample.buffer().expect("a buffer").map_readable().expect("readable");
            all.push(buffer.to_vec());
        }
        pipeline.set_state(gst::State::Null).expect("stops");
        (config, all)
    }

    fn assert_same(&self, codec: &str, units: &[Unit]) {
        self.assert_same_track(codec, 0, units);
    }

    /// Each unit is that of the film, from a keyframe on, none missing.
    fn assert_same_track(&self, codec: &str, track: usize, units: &[Unit]) {
        let film = self.access_units(codec);
        assert_eq!(film.len(), 300);
        let pictures: Vec<_> = units.iter().filter(|unit| unit.track == track).collect();
        assert!(pictures[0].keyframe, "it begins with a keyframe");
        let came: Vec<_> =
            pictures.iter().map(|unit| without_repeated(codec, nal_units(codec, unit))).collect();
        let begin = film.iter().position(|unit| *unit == came[0]).expect("a picture of the film");
        for (at, unit) in came.iter().enumerate() {
            assert!(*unit == film[begin + at], "{codec}: picture {at} from {begin} on is another");
        }
    }
}

/// Kind of a NAL unit, and those of delimiters and parameter sets (table 7-1 of each standard).
fn without_repeated(codec: &str, unit: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let is_kept = |nal: &Vec<u8>| match codec {
        "H264" => !(7..=9).contains(&(nal[0] & 0x1f)),
        _ => !(32..=35).contains(&(nal[0] >> 1 & 0x3f)),
    };
    unit.into_iter().filter(is_kept).collect()
}

/// The NAL units within a unit's packets (RFC 6184, section 5.6 to 5.8; RFC 7798, section 4.4).
fn nal_units(codec: &str, unit: &Unit) -> Vec<Vec<u8>> {
    let is_h264 = codec == "H264";
    let header = if is_h264 { 1 } else { 2 };
    let mut units: Vec<Vec<u8>> = Vec::new();
    for packet in unit.packets.packets() {
        let payload = &packet[12..];
        let kind = if is_h264 { payload[0] & 0x1f } else { payload[0] >> 1 & 0x3f };
        match (is_h264, kind) {
            (true, 24) | (false, 48) => {
                let mut rest = &payload[header..];
                while let Some((length, behind)) = rest.split_first_chunk::<2>() {
                    let (nal, behind) = behind.split_at(u16::from_be_bytes(*length).into());
                    units.push(nal.to_vec());
                    rest = behind;
                }
            }
            (true, 28) | (false, 49) => {
                let about = payload[header];
                if about & 0x80 != 0 {
                    units.push(if is_h264 {
                        vec![payload[0] & 0xe0 | about & 0x1f]
                    } else {
                        vec![payload[0] & 0x81 | (about & 0x3f) << 1, payload[1]]
                    });
                }
                units.last_mut().expect("a beginning").extend(&payload[header + 1..]);
            }
            _ => units.push(payload.to_vec()),
        }
    }
    units
}

/// Another program, ended with the test.
struct Ended(Child);

impl Ended {
    /// Asks it to end in order, and waits.
    fn end(mut self) {
        let pid = Pid::from_raw(self.0.id().try_into().expect("a process id"));
        signal::kill(pid, Signal::SIGTERM).expect("it is ours");
        self.0.wait().expect("it was started here");
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        self.0.wait().expect("it was started here");
    }
}

struct Camera {
    _server: Ended,
    port: String,
}

impl Camera {
    fn start(port: &str, pipeline: &str, login: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ip-camera.py");
        let mut server = Command::new("/usr/bin/python3")
            .arg(program)
            .args([port, pipeline])
            .args(login)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs; install the packages of scripts/install.sh test");
        let said = server.stdout.take().expect("it is piped");
        let server = Ended(server);
        let mut port = String::new();
        BufReader::new(said).read_line(&mut port).expect("a line");
        assert!(!port.is_empty(), "the camera does not run; see what it said above");
        Self { _server: server, port: port.trim().to_owned() }
    }
}

fn ffmpeg(arguments: &[&str]) -> Ended {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin"]).args(arguments);
    Ended(command.spawn().expect("ffmpeg runs; install the Debian package ffmpeg"))
}

/// A pipeline that sends.
struct Sender(gst::Element);

impl Sender {
    fn start(description: &str) -> Self {
        let pipeline = gst::parse::launch(description).expect("legal description");
        pipeline.set_state(gst::State::Playing).expect("starts");
        Self(pipeline)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.set_state(gst::State::Null).expect("stops");
    }
}

/// A port that nobody uses at this moment.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").port()
}

/// A source that has not yet said what its tracks are.
struct Waiting {
    producer: Producer,
    events: Receiver<Event>,
}

/// A source that has.
struct Run {
    producer: Producer,
    events: Receiver<Event>,
    formats: Vec<Format>,
}

impl Waiting {
    fn start(url: &str, before: Option<&Continuation>) -> Self {
        Self::start_at(url, before, None)
    }

    fn start_at(url: &str, before: Option<&Continuation>, entrance: Option<Entrance>) -> Self {
        let source = url.parse().expect("a source");
        let config = MediaConfig { source, ..MediaConfig::default() };
        let (to, events) = mpsc::channel();
        let sink = Arc::new(move |event| to.send(event).unwrap_or_default());
        let producer = Producer::begin(config, sink, before, entrance, None);
        Self { producer: producer.expect("it starts"), events }
    }

    fn ready(self) -> Result<Run, String> {
        let Self { producer, events } = self;
        match events.recv_timeout(PATIENCE).expect("an event in time") {
            Event::Ready(formats) => Ok(Run { producer, events, formats }),
            Event::Failed(error) => Err(error.to_string()),
            other => panic!("{other:?} before it was ready"),
        }
    }
}

impl Run {
    fn start(url: &str, before: Option<&Continuation>) -> Result<Self, String> {
        Waiting::start(url, before).ready()
    }

    fn names(&self) -> Vec<&str> {
        self.formats.iter().map(|format| format.encoding_name.as_str()).collect()
    }

    /// Units until there are so many of the first track.
    fn units_until(&mut self, enough: usize) -> Vec<Unit> {
        self.units_of(0, enough)
    }

    fn units_of(&mut self, track: usize, enough: usize) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        while units.iter().filter(|unit| unit.track == track).count() < enough {
            match self.events.recv_timeout(PATIENCE).expect("an event in time") {
                Event::Unit(unit) => units.push(unit),
                other => panic!("{other:?}"),
            }
        }
        units
    }

    /// How it failed.
    fn failure(&mut self) -> String {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("an event in time") {
                Event::Unit(_) | Event::TrackEnded(_) => {}
                Event::Failed(error) => return error.to_string(),
                other => panic!("{other:?}"),
            }
        }
    }
}
