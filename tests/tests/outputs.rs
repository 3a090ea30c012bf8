//! What a viewer passes on to files, players and servers, looked at with ffmpeg: the pictures are the source's, none
//! is missing, and sound is in time with them.

use std::collections::HashMap;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use test_camera::Devices;
use tests::local::{self, PATIENCE, Running, program};
use tests::stored::{access_units, beeps};
use tests::{clip, lab};

/// How far sound may be from its picture, in milliseconds.
const LIP_SYNC: f64 = 45.0;

/// Bytes of a packet of a transport stream.
const PACKET: u64 = 188;

/// Above this mean the upper half of a picture is a flash.
const FLASH: usize = 230;

const PASSPHRASE: &str = "correct horse battery";

/// A clip of eight seconds with a keyframe, a picture with a white upper half and the begin of a tone each second.
fn source(folder: &Path) -> PathBuf {
    let source = folder.join("source.mp4");
    let pictures = "testsrc2=s=320x180:r=25:d=8,\
                    drawbox=w=iw:h=ih/2:color=white:t=fill:enable='lt(mod(n,25),1)'";
    let sound = "aevalsrc=0.5*sin(2*PI*1000*t)*lt(mod(t\\,1)\\,0.04):s=48000:d=8";
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound]);
    ffmpeg.args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25"]);
    ffmpeg.args(["-pix_fmt", "yuv420p", "-c:a", "aac"]).arg(&source);
    let output = ffmpeg.output().expect("scripts/install.sh test installs ffmpeg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    source
}

fn ffmpeg() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-y"]);
    ffmpeg
}

/// A broadcast of the clip on loopback.
struct Broadcast {
    folder: tempfile::TempDir,
    source: PathBuf,
    link: String,
    _processes: [Running; 2],
}

impl Broadcast {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = source(folder.path());
        let (rendezvous, at) = local::rendezvous();
        let from = format!("file:{}", source.display());
        let (broadcaster, link) = local::broadcaster(at, folder.path(), &from, &[]);
        Self { folder, source, link, _processes: [rendezvous, broadcaster] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn watch(&self, outputs: &[&str], duration: &str) -> Command {
        let mut viewer = program("punchcast-viewer");
        viewer.args(["watch", &self.link, "--for", duration]);
        outputs.iter().for_each(|output| {
            viewer.args(["--output", output]);
        });
        viewer
    }

    /// Looks at what came out: whole from its first keyframe to its end.
    fn check(&self, media: &Path) {
        self.check_but(0, media);
    }

    /// As [`Self::check`], but for so many pictures at the end, of which parts may have been on their way.
    fn check_but(&self, last: usize, media: &Path) {
        let name = media.display();
        assert_eq!(codecs(media), ["h264", "aac"], "{name}");
        for stream in ["v:0", "a:0"] {
            let times = clip::times(media, stream);
            assert!(times.is_sorted(), "{name}: {stream}: {times:?}");
            assert!(clip::longest_gap(&times) < 0.045, "{name}: {stream}: {times:?}");
        }
        let frames = clip::frames(media);
        assert!(frames.len() > 75, "{name}: {} frames", frames.len());
        let whole = &frames[..frames.len() - last];
        let (_, worst) = clip::compare_looped(whole, &clip::frames(&self.source));
        assert!(worst > clip::SAME_PICTURE, "{name}: {worst} dB");
        let late = sound_is_late_by(media, &frames);
        assert!(late.len() >= 3, "{name}: {late:?}");
        assert!(late.iter().all(|late| late.abs() <= LIP_SYNC), "{name}: {late:?}");
        println!("{name}: {} frames, {worst:.1} dB, sound late by {late:.1?} ms", frames.len());
    }
}

/// Codecs of the streams, in order.
fn codecs(media: &Path) -> Vec<String> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-show_entries", "stream=codec_name", "-of", "default=nk=1:nw=1"]);
    let output = ffprobe.arg(media).output().expect("ffprobe comes with ffmpeg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut codecs: Vec<String> = Vec::new();
    // Streams of a transport stream are named once more for its programme.
    for line in text.lines().filter(|line| !line.is_empty()) {
        if !codecs.iter().any(|codec| codec == line) {
            codecs.push(line.to_owned());
        }
    }
    codecs.sort_by_key(|codec| codec != "h264");
    codecs
}

/// How much later than its flash each tone begins, in milliseconds.
fn sound_is_late_by(media: &Path, frames: &[Vec<u8>]) -> Vec<f64> {
    let pictures = clip::times(media, "v:0");
    let sound = clip::times(media, "a:0");
    let start = pictures[0].min(sound[0]);
    let of_frames = shown_at(media);
    assert_eq!(of_frames.len(), frames.len(), "{}: a time for each picture", media.display());
    let is_flash = |frame: &[u8]| {
        let upper = &frame[..frame.len() / 2];
        upper.iter().map(|pixel| usize::from(*pixel)).sum::<usize>() > FLASH * upper.len()
    };
    let flashes = of_frames.iter().zip(frames).filter(|(_, frame)| is_flash(frame));
    let beeps = beeps(media);
    let late = flashes.filter_map(|(time, _)| {
        let late = beeps.iter().map(|beep| beep - (time - start));
        late.filter(|late| late.abs() < 0.5).min_by(|a, b| a.abs().total_cmp(&b.abs()))
    });
    late.map(|late| late * 1e3).collect()
}

/// When each picture that can be decoded is to be shown, in seconds.
fn shown_at(media: &Path) -> Vec<f64> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", "v:0", "-show_entries"]);
    ffprobe.args(["frame=best_effort_timestamp_time", "-of", "csv=p=0"]).arg(media);
    let output = ffprobe.output().expect("ffprobe comes with ffmpeg");
    let text = String::from_utf8(output.stdout).expect("text");
    let fields = text.lines().map(|line| line.trim_end_matches(','));
    fields.filter(|field| !field.is_empty()).map(|field| field.parse().expect("a time")).collect()
}

/// A UDP port that is free.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("its number").port()
}

/// Whether somebody has a UDP port open on this machine.
fn is_open(port: u16) -> bool {
    let open = fs::read_to_string("/proc/net/udp").expect("Linux says so");
    let open = open + &fs::read_to_string("/proc/net/udp6").unwrap_or_default();
    let port = format!(":{port:04X}");
    open.lines().any(|line| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(&port)))
}

#[track_caller]
fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(lab::eventually(PATIENCE, is_so), "{what}");
}

/// ffmpeg that writes down what it is sent over SRT.
struct Receiver {
    child: Child,
    media: PathBuf,
}

impl Receiver {
    fn start(address: &str, media: PathBuf) -> Self {
        let mut ffmpeg = ffmpeg();
        ffmpeg.args(["-i", address, "-map", "0", "-c", "copy", "-copyts"]).arg(&media);
        ffmpeg.stderr(Stdio::null());
        Self { child: ffmpeg.spawn().expect("ffmpeg starts"), media }
    }

    /// Waits for the end of what it is sent.
    fn end(&mut self) {
        let child = &mut self.child;
        wait_until("ffmpeg ends", || child.try_wait().expect("a child").is_some());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn srt_calls_and_is_called() {
    let broadcast = Broadcast::start();
    let (calling, called) = (free_port(), free_port());
    let to = format!(
        "srt://127.0.0.1:{calling}?latency=2s&passphrase={}",
        PASSPHRASE.replace(' ', "%20")
    );
    let mut listener = Receiver::start(
        &format!("srt://127.0.0.1:{calling}?mode=listener&passphrase={PASSPHRASE}"),
        broadcast.path("called.ts"),
    );
    wait_until("ffmpeg listens", || is_open(calling));
    let outputs = [to.as_str(), &format!("srt://:{called}?latency=2s")];
    let mut viewer = Running::start(&mut broadcast.watch(&outputs, "10s"), true);
    wait_until("the viewer listens", || is_open(called));
    // Nobody on this machine reads the passphrase off the process that has it.
    let processes = fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let words: Vec<_> = lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect();
    let plays = |line: &&String| line.contains("\0play\0") && line.contains(&calling.to_string());
    let playing: Vec<_> = words.iter().filter(plays).collect();
    assert!(
        !playing.is_empty() && playing.iter().all(|line| !line.contains("horse")),
        "{playing:?}"
    );
    let mut caller =
        Receiver::start(&format!("srt://127.0.0.1:{called}"), broadcast.path("calls.ts"));
    wait_until("the viewer ends", || viewer.try_wait().is_some());
    assert!(viewer.try_wait().is_some_and(|status| status.success()));
    for receiver in [&mut listener, &mut caller] {
        receiver.end();
        broadcast.check_but(1, &receiver.media);
    }
}

/// ffmpeg as a server that is published to by RTMP, once.
fn rtmp_server(port: u16, media: PathBuf) -> Receiver {
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-listen", "1", "-i", &format!("rtmp://127.0.0.1:{port}/live/secret-key")]);
    // What else comes is the muxer's description.
    ffmpeg.args(["-map", "0:v", "-map", "0:a", "-c", "copy", "-copyts"]);
    ffmpeg.arg(&media).stderr(Stdio::null());
    let receiver = Receiver { child: ffmpeg.spawn().expect("ffmpeg starts"), media };
    let listens = || {
        let open = fs::read_to_string("/proc/net/tcp").expect("Linux says so");
        let at = format!(":{port:04X} 00000000:0000 0A");
        open.lines().any(|line| line.contains(&at))
    };
    wait_until("ffmpeg listens", listens);
    receiver
}

#[test]
fn an_rtmp_server_is_published_to_and_again_when_it_comes_back() {
    let broadcast = Broadcast::start();
    let port = free_port();
    let mut before = rtmp_server(port, broadcast.path("before.flv"));
    let to = format!("rtmp://127.0.0.1:{port}/live/secret-key");
    let recording = broadcast.path("beside.mkv");
    let record = format!("record:{}", recording.display());
    let mut viewer = broadcast.watch(&[&to, &record], "18s");
    viewer.stderr(Stdio::piped());
    let mut viewer = viewer.spawn().expect("it starts");
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    wait_until("some of the film is there", || size(&before.media) > 200_000);
    before.child.kill().expect("it runs");
    before.child.wait().expect("it is gone");
    let mut after = rtmp_server(port, broadcast.path("after.flv"));
    wait_until("the film goes on", || size(&after.media) > 0);
    wait_until("the viewer ends", || viewer.try_wait().expect("a child").is_some());
    let ended = viewer.wait_with_output().expect("it ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("trying again in 1 s") && !said.contains("secret-key"), "{said}");
    after.end();
    broadcast.check_but(1, &after.media);
    broadcast.check(&recording);
}

#[test]
fn sound_that_rtmp_does_not_know_is_encoded_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_rendezvous, at) = local::rendezvous();
    let (_broadcaster, link) = local::broadcaster(at, folder.path(), "test", &[]);
    let port = free_port();
    let mut server = rtmp_server(port, folder.path().join("test.flv"));
    let to = format!("rtmp://127.0.0.1:{port}/live/secret-key");
    let ended = local::watch(&link, &["--output", &to, "--for", "8s"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    server.end();
    assert_eq!(codecs(&server.media), ["h264", "aac"]);
    for stream in ["v:0", "a:0"] {
        let times = clip::times(&server.media, stream);
        let length = times[times.len() - 1] - times[0];
        assert!(times.is_sorted() && length > 4.0, "{stream}: {length} s");
        assert!(clip::longest_gap(&times) < 0.07, "{stream}: {times:?}");
    }
}

/// Segments that a playlist lists, in order.
fn listed(playlist: &str) -> Vec<&str> {
    playlist.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn a_web_server_finds_whole_segments_only_and_they_hold_all() {
    let broadcast = Broadcast::start();
    let folder = broadcast.path("www/live");
    let recording = broadcast.path("beside.ts");
    let hls = format!("hls:{}?segment=2s&keep=100", folder.display());
    let record = format!("record:{}", recording.display());
    let mut viewer = Running::start(&mut broadcast.watch(&[&hls, &record], "9s"), true);
    let playlist = folder.join("live.m3u8");
    // What is listed once is whole, and stays as it is.
    let mut seen: HashMap<String, u64> = HashMap::new();
    wait_until("the viewer ends", || {
        let text = fs::read_to_string(&playlist).unwrap_or_default();
        assert!(text.is_empty() || text.starts_with("#EXTM3U\n"), "{text:?}");
        for name in listed(&text) {
            let length = fs::metadata(folder.join(name)).expect("listed").len();
            assert!(length > 0 && length.is_multiple_of(PACKET), "{name}: {length}");
            assert_eq!(*seen.entry(name.to_owned()).or_insert(length), length, "{name}");
        }
        viewer.try_wait().is_some()
    });
    assert!(viewer.try_wait().is_some_and(|status| status.success()));
    broadcast.check(&playlist);
    broadcast.check(&recording);
    for track in ["v:0", "a:0"] {
        assert_eq!(access_units(&playlist, track), access_units(&recording, track), "{track}");
    }
    let text = fs::read_to_string(&playlist).expect("the playlist");
    assert!(text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    let segments = listed(&text);
    assert!(segments.len() >= 3 && seen.len() >= 2, "{text}");
    let durations = text.lines().filter_map(|line| line.strip_prefix("#EXTINF:"));
    let durations: Vec<f64> =
        durations.map(|d| d.trim_end_matches(',').parse().expect("seconds")).collect();
    for (segment, duration) in segments.iter().zip(&durations) {
        let path = folder.join(segment);
        let frames = clip::frames(&path).len();
        let pictures = clip::times(&path, "v:0").len();
        // Each can be decoded without those before it.
        assert_eq!(frames, pictures, "{segment}");
        if *segment != segments[segments.len() - 1] {
            // Keyframes come each second, and every other one at just the time of a segment.
            assert!((duration - 2.0).abs() < 0.11, "{segment}: {duration} s in {text}");
            assert!((frames as f64 / 25.0 - 2.0).abs() < 0.01, "{segment}: {frames} frames");
        }
    }
}

#[test]
fn a_receiver_that_is_not_there_stops_nothing_else() {
    let broadcast = Broadcast::start();
    let recording = broadcast.path("film.mkv");
    let record = format!("record:{}", recording.display());
    let nobody = format!("srt://127.0.0.1:{}", free_port());
    let ended = local::run(&mut broadcast.watch(&[&nobody, &record], "7s"));
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains(&nobody), "{ended:#?}");
    broadcast.check(&recording);
}

#[test]
fn a_recording_in_parts_lacks_nothing() {
    let broadcast = Broadcast::start();
    let folder = broadcast.path("parts");
    fs::create_dir(&folder).expect("a folder");
    for extension in ["mkv", "mp4", "ts"] {
        // An earlier run's, after which the numbers go on.
        fs::write(folder.join(format!("film-00007.{extension}")), "").expect("written");
    }
    let record = |name: &str| format!("record:{}", folder.join(name).display());
    let mut outputs: Vec<_> = ["mkv", "mp4", "ts"]
        .map(|extension| record(&format!("film.{extension}?every=2500ms")))
        .into();
    outputs.extend([record("whole.ts"), record("whole.mkv")]);
    let outputs: Vec<_> = outputs.iter().map(String::as_str).collect();
    let ended = local::run(&mut broadcast.watch(&outputs, "9s"));
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    for extension in ["mkv", "mp4", "ts"] {
        let part = |number: usize| folder.join(format!("film-{number:05}.{extension}"));
        let parts: Vec<_> = (8..).map(part).take_while(|part| part.exists()).collect();
        assert!(parts.len() >= 3, "{extension}: {parts:?}");
        let whole = folder.join(if extension == "ts" { "whole.ts" } else { "whole.mkv" });
        for track in ["v:0", "a:0"] {
            let joined: Vec<_> = parts.iter().flat_map(|part| access_units(part, track)).collect();
            assert!(joined == access_units(&whole, track), "{extension}: {track} differs");
        }
        for part in &parts {
            assert_eq!(clip::frames(part).len(), clip::times(part, "v:0").len(), "{part:?}");
        }
    }
}

/// Pictures of the first second, in which a viewer joins.
const JOINING: usize = 25;

/// Pictures that a device was given, of this size.
fn shown_on(device: &Path, size: &str) -> Vec<Vec<u8>> {
    let whole = device.with_extension("mkv");
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-f", "rawvideo", "-pix_fmt", "yuyv422", "-s", size, "-i"]).arg(device);
    let output = ffmpeg.args(["-c:v", "ffv1"]).arg(&whole).output().expect("ffmpeg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    clip::frames(&whole)
}

#[test]
fn a_device_is_given_every_picture_in_one_size() {
    let broadcast = Broadcast::start();
    let devices = Devices::new().expect("a folder");
    let [whole, small] = ["video10", "video11"].map(|name| devices.plug(name).expect("room"));
    let outputs =
        [format!("v4l2:{}", whole.display()), format!("v4l2:{}?size=160x120", small.display())];
    let mut viewer = broadcast.watch(&outputs.each_ref().map(String::as_str), "5s");
    devices.show_to(&mut viewer);
    let ended = local::run(&mut viewer);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let source = clip::frames(&broadcast.source);
    let shown = shown_on(&whole, "320x180");
    // Who joins sees the first picture there is, and goes on with those of now.
    let (_, worst) = clip::compare_looped(&shown[JOINING..], &source);
    println!("{} pictures, {worst:.1} dB", shown.len());
    assert!(shown.len() > 50 && worst > clip::SAME_PICTURE, "{} of {worst} dB", shown.len());
    // Of another shape: there are borders, and as many pictures.
    let bytes = fs::metadata(&small).expect("it is there").len();
    assert_eq!(bytes % (160 * 120 * 2), 0, "{bytes}");
    let pictures = bytes / (160 * 120 * 2);
    assert!(pictures.abs_diff(shown.len() as u64) <= 2, "{pictures} and {}", shown.len());
    let bordered = shown_on(&small, "160x120");
    let dark = |line: usize| {
        // Small and grey: 160×90, of which the first and the last lines are borders.
        let line = &bordered[0][line * 160..(line + 1) * 160];
        line.iter().all(|grey| *grey < 20)
    };
    assert!(dark(0) && dark(89) && !dark(45), "{:?}", bordered[0]);
}

#[test]
fn what_is_no_device_for_pictures_is_said_and_what_to_do() {
    let broadcast = Broadcast::start();
    for (device, words) in [
        ("/dev/video-none", ["no such device", "modprobe v4l2loopback"]),
        ("/dev/null", ["V4L2 device", "modprobe v4l2loopback"]),
    ] {
        let ended = local::run(&mut broadcast.watch(&[&format!("v4l2:{device}")], "5s"));
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        let message = ended.message();
        assert!(message.contains(device), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    // A real one, where this machine's kernel has one.
    for device in loopbacks() {
        let ended = local::run(&mut broadcast.watch(&[&format!("v4l2:{device}")], "4s"));
        println!("{device}: {:?}", ended.code);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
    }
}

/// Devices of v4l2loopback.
fn loopbacks() -> Vec<String> {
    let all = fs::read_dir("/sys/devices/virtual/video4linux").into_iter().flatten().flatten();
    all.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy())).collect()
}

/// Whether these bytes are a JPEG from its first marker to its last (ITU-T T.81, B.1.1).
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8]) && bytes.ends_with(&[0xff, 0xd9])
}

#[test]
fn whoever_reads_a_snapshot_finds_a_whole_picture_of_now() {
    let broadcast = Broadcast::start();
    let picture = broadcast.path("now.jpg");
    let snapshot = format!("snapshot:{}?every=500ms", picture.display());
    let mut viewer = Running::start(&mut broadcast.watch(&[&snapshot], "6s"), true);
    let mut pictures: Vec<Vec<u8>> = Vec::new();
    wait_until("the viewer ends", || {
        if let Ok(bytes) = fs::read(&picture) {
            assert!(is_whole_jpeg(&bytes), "{} bytes", bytes.len());
            if pictures.last() != Some(&bytes) {
                pictures.push(bytes);
            }
        }
        viewer.try_wait().is_some()
    });
    assert!(viewer.try_wait().is_some_and(|status| status.success()));
    // Two a second.
    assert!((8..=13).contains(&pictures.len()), "{} pictures", pictures.len());
    let source = clip::frames(&broadcast.source);
    for (number, bytes) in pictures.iter().enumerate() {
        let kept = broadcast.path(&format!("kept{number}.jpg"));
        fs::write(&kept, bytes).expect("room");
        let [shown] = &clip::frames(&kept)[..] else { panic!("one picture: {}", kept.display()) };
        let best = source.iter().map(|frame| clip::psnr(shown, frame)).fold(0.0, f64::max);
        assert!(best > 28.0, "picture {number} is none of the source's: {best:.1} dB");
    }
    assert!(!broadcast.path(".now.jpg.new").exists());
}
