//! The whole chain, from senders that others wrote to what others read: ffmpeg pushes by RTMP and SRT, GStreamer by RTP,
//! and a viewer passes it on to files, players and servers at the same time. What comes out is what went in, picture
//! by picture, and sound stays in time with it.
//!
//! `PUSHED_SECONDS` says how long each viewer watches: 8 unless told otherwise.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::lab;
use tests::local::{self, PATIENCE, Running, program};
use tests::stored::beeps;

/// How far sound may be from its picture, in milliseconds.
const LIP_SYNC: f64 = 45.0;

/// Pictures a second; every so many, one flashes and a tone begins.
const RATE: usize = 25;

/// Edges of the pictures, in pixels.
const SIZE: [&str; 2] = ["640", "360"];

/// What the film lasts beyond the time that is watched: programs start meanwhile.
const MARGIN: usize = 20;

/// Pictures at the end that are not looked at: some were sent before others that are shown before them.
const LAST: usize = 4;

/// How long a picture may be shown, in milliseconds, where each lasts 40: a viewer catches up with a path that proves
/// quicker.
const STEPS: std::ops::RangeInclusive<f64> = 30.0..=50.0;

/// And by which share of time it does.
const FASTEST: f64 = 0.016;

/// Pictures that are compared by ffmpeg's filters: a minute of them.
const FILTERED: usize = 60 * RATE;

/// How little a picture that is encoded here may differ from its source: PSNR in dB, and SSIM, on average.
const LEAST_PSNR: f64 = 32.0;
const LEAST_SSIM: f64 = 0.93;

/// How long each viewer watches, in seconds.
fn seconds() -> usize {
    let told = std::env::var("PUSHED_SECONDS").ok();
    told.map_or(8, |text| text.parse().expect("PUSHED_SECONDS is a number"))
}

/// Waits as long as programs that write down a whole film take at their end.
#[track_caller]
fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(lab::eventually(PATIENCE, is_so), "{what}");
}

/// What a program prints; it must have no complaint.
#[track_caller]
fn without_complaint(command: &mut Command) -> String {
    let output = command.output().expect("scripts/install.sh test installs ffmpeg");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{command:?}: {complaint}");
    String::from_utf8(output.stdout).expect("text")
}

fn ffmpeg() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "warning", "-nostdin", "-y"]);
    ffmpeg
}

/// How the film is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// H.264 with B-frames and AAC, as OBS sends them.
    Encoded,
    /// Without loss, in codecs that nobody is sent.
    Raw,
}

/// Pictures that move and say their number to people; each second the upper half of one is white and a tone begins.
fn film(folder: &Path, kept: Kept, length: usize) -> PathBuf {
    let pictures = format!(
        "testsrc2=s={}x{}:r={RATE}:d={length},\
         drawbox=w=iw:h=ih/2:color=white:t=fill:enable='lt(mod(n,{RATE}),1)'",
        SIZE[0], SIZE[1]
    );
    let sound =
        format!("aevalsrc=0.5*sin(2*PI*1000*t)*lt(mod(t\\,1)\\,0.04):s=48000:c=stereo:d={length}");
    let mut make = ffmpeg();
    // lavfi says that it guesses the layout.
    make.args(["-v", "error", "-f", "lavfi", "-i", &pictures, "-f", "lavfi", "-i", &sound]);
    make.args(["-pix_fmt", "yuv420p"]);
    let film = match kept {
        Kept::Encoded => {
            make.args(["-c:v", "libx264", "-preset", "superfast", "-b:v", "1500k", "-bf", "2"]);
            make.args(["-g", "25", "-sc_threshold", "0", "-c:a", "aac"]);
            folder.join("film.mp4")
        }
        Kept::Raw => {
            make.args(["-c:v", "ffv1", "-g", "1", "-c:a", "pcm_s16le"]);
            folder.join("film.mkv")
        }
    };
    without_complaint(make.arg(&film));
    film
}

/// Ports that are open on this machine, of UDP and TCP.
fn is_open(port: u16) -> bool {
    let files = ["udp", "udp6", "tcp", "tcp6"].map(|name| format!("/proc/net/{name}"));
    let port = format!(":{port:04X}");
    files.iter().any(|file| {
        let open = fs::read_to_string(file).unwrap_or_default();
        let mut local = open.lines().filter_map(|line| line.split_whitespace().nth(1));
        local.any(|at| at.ends_with(&port))
    })
}

/// A port that is free, for UDP and TCP.
fn free_port() -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let port = || UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    (0..100).filter_map(|_| port().ok()).map(|at| at.port()).find(|&port| free(port)).expect("one")
}

/// A program that ends with the test.
struct Helper(Child);

impl Helper {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    #[track_caller]
    fn end(&mut self) {
        wait_until("a receiver ends", || self.0.try_wait().expect("a child").is_some());
    }

    /// As Ctrl-C does.
    fn interrupt(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes down the datagrams that come to a port, as they are.
struct Datagrams {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Datagrams {
    fn write_to(media: &Path) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("its number").port();
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
        let mut file = File::create(media).expect("a file");
        let ends = Arc::<AtomicBool>::default();
        let told = ends.clone();
        let thread = std::thread::spawn(move || {
            let mut datagram = [0; 65_536];
            while !told.load(Ordering::SeqCst) {
                if let Ok(length) = socket.recv(&mut datagram) {
                    file.write_all(&datagram[..length]).expect("room");
                }
            }
        });
        Self { ends, thread: Some(thread), port }
    }

    fn end(mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.take().expect("once").join().expect("it wrote all down");
    }
}

/// Who pushes the film, and how the broadcaster takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Rtmp,
    Srt,
    Rtp,
    /// Nobody: the broadcaster reads the raw film, and encodes it.
    Broadcaster,
}

impl Sender {
    fn source(self, port: u16, film: &Path) -> String {
        match self {
            Self::Rtmp => format!("rtmp://127.0.0.1:{port}/live/key"),
            Self::Srt => format!("srt://127.0.0.1:{port}?mode=listener"),
            Self::Rtp => format!("rtp://127.0.0.1:{port}"),
            Self::Broadcaster => format!("file:{}", film.display()),
        }
    }

    fn push(self, port: u16, film: &Path) -> Option<Helper> {
        let ffmpeg = |container: &str, to: String| {
            let mut ffmpeg = ffmpeg();
            ffmpeg.args(["-re", "-i"]).arg(film).args(["-c", "copy", "-f", container, &to]);
            Some(Helper::start(ffmpeg.stderr(Stdio::null())))
        };
        match self {
            Self::Rtmp => ffmpeg("flv", format!("rtmp://127.0.0.1:{port}/live/key")),
            Self::Srt => ffmpeg("mpegts", format!("srt://127.0.0.1:{port}?pkt_size=1316")),
            Self::Rtp => {
                let pipeline = format!(
                    "filesrc location={} ! qtdemux name=d mpegtsmux name=m alignment=7 \
                     ! rtpmp2tpay ! udpsink host=127.0.0.1 port={port} \
                     d.video_0 ! queue ! h264parse config-interval=-1 ! m. \
                     d.audio_0 ! queue ! aacparse ! m.",
                    film.display()
                );
                let mut launch = Command::new("gst-launch-1.0");
                launch.arg("-q").args(pipeline.split_whitespace());
                Some(Helper::start(&mut launch))
            }
            Self::Broadcaster => None,
        }
    }
}

/// What one medium holds of its pictures: a digest of each as decoded, and its time in seconds.
struct Pictures(Vec<(String, f64)>);

impl Pictures {
    /// Decodes all. Returns what ffmpeg complains of, too.
    fn of(media: &Path) -> (Self, String) {
        let mut decode = ffmpeg();
        decode.args(["-copyts", "-i"]).arg(media).args(["-map", "0:v:0", "-fps_mode"]);
        decode.args(["passthrough", "-enc_time_base", "1:90000", "-f", "framehash"]);
        let output = decode.args(["-hash", "md5", "-"]).output().expect("ffmpeg runs");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = String::from_utf8(output.stdout).expect("text");
        let picture = |line: &str| {
            let mut fields = line.split(',').map(str::trim);
            let time = fields.nth(2)?.parse::<f64>().ok()? / 90_000.0;
            Some((fields.nth(2)?.to_owned(), time))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        (Self(lines.filter_map(picture).collect()), complaint)
    }
}

/// The film, as all that comes out is compared with.
struct Film {
    path: PathBuf,
    kept: Kept,
    pictures: Pictures,
    /// How late its own sound is at each flash, in milliseconds.
    late: f64,
}

impl Film {
    fn of(path: PathBuf, kept: Kept) -> Self {
        let (pictures, _) = Pictures::of(&path);
        let mut film = Self { path, kept, pictures, late: 0.0 };
        let late = film.late(&film.path, &film.pictures, 0);
        film.late = median(&late);
        assert!(late.iter().all(|late| (late - film.late).abs() < 2.0), "{late:.1?}");
        film
    }

    /// The place in the film of the first of these pictures.
    fn begin(&self, media: &Path, pictures: &Pictures) -> usize {
        if self.kept == Kept::Encoded {
            let first = &pictures.0.first().expect("there are pictures").0;
            let film = &self.pictures.0;
            let begin = film.iter().position(|(digest, _)| digest == first);
            return begin.unwrap_or_else(|| panic!("{}: no picture of the film", media.display()));
        }
        let frames = tests::clip::frames(media);
        tests::clip::compare_looped(&frames[..1], &tests::clip::frames(&self.path)).0
    }

    /// How late each tone is after its flash, in milliseconds, from the first on.
    fn late(&self, media: &Path, pictures: &Pictures, begin: usize) -> Vec<f64> {
        let start = start(media);
        let beeps = beeps(media);
        let numbered = pictures.0.iter().zip(begin..);
        let flashes = numbered.filter(|(_, number)| number % RATE == 0);
        let late = flashes.filter_map(|((_, time), _)| {
            let from = beeps.partition_point(|beep| *beep < time - start - 0.5);
            let near = beeps[from..].iter().map(|beep| beep - (time - start));
            near.take(2).filter(|late| late.abs() < 0.5).min_by(|a, b| a.abs().total_cmp(&b.abs()))
        });
        late.map(|late| late * 1e3).collect()
    }

    /// Looks at one medium that came out: a line of a table, and what is wrong with it.
    fn check(&self, name: &str, media: &Path) -> (String, Vec<String>) {
        let mut wrong = Vec::new();
        let mut demand = |is_so: bool, what: String| {
            if !is_so {
                wrong.push(format!("{name}: {what}"));
            }
        };
        let (codecs, size, complaint) = description(media);
        demand(complaint.is_empty(), complaint);
        let sound = if self.kept == Kept::Encoded { "aac" } else { "opus" };
        demand(codecs == ["h264", sound], format!("{codecs:?}"));
        demand(size == SIZE, format!("{size:?}"));
        let (mut pictures, complaint) = Pictures::of(media);
        // Parts of the last picture may be on their way still.
        let is_sent = ["udp", "srt", "rtmp"].contains(&name);
        demand(is_sent || complaint.is_empty(), complaint);
        pictures.0.truncate(pictures.0.len().saturating_sub(LAST));
        let count = pictures.0.len();
        demand(count > (seconds() - 5) * RATE, format!("{count} pictures"));
        // Each in its time.
        let times: Vec<f64> = pictures.0.iter().map(|(_, time)| *time).collect();
        let steps =
            sorted(&times.windows(2).map(|two| (two[1] - two[0]) * 1e3).collect::<Vec<_>>());
        let (least, most) = (steps[0], steps[steps.len() - 1]);
        let is_even = STEPS.contains(&least) && STEPS.contains(&most);
        let rate = (count - 1) as f64 / (times[count - 1] - times[0]);
        demand((rate / RATE as f64 - 1.0).abs() < FASTEST, format!("{rate:.2} pictures a second"));
        let step = |at: &usize| times[at + 1] - times[*at];
        let longest = (0..count - 1).max_by(|a, b| step(a).total_cmp(&step(b))).unwrap_or(0);
        demand(
            is_even,
            format!(
                "{least:.1} to {most:.1} ms from one picture to the next, most after {longest}"
            ),
        );
        let begin = self.begin(media, &pictures);
        if self.kept == Kept::Encoded {
            let film = &self.pictures.0[begin..];
            let same = film.iter().zip(&pictures.0).take_while(|(film, out)| film.0 == out.0);
            let same = same.count();
            demand(same == count, format!("from {begin} on, {same} of {count} are the same"));
        }
        let (psnr, ssim) = self.likeness(media, begin, count.min(FILTERED));
        let is_alike = match self.kept {
            Kept::Encoded => psnr.is_infinite() && ssim == 1.0,
            Kept::Raw => psnr > LEAST_PSNR && ssim > LEAST_SSIM,
        };
        demand(is_alike, format!("PSNR {psnr}, SSIM {ssim}"));
        let late = self.late(media, &pictures, begin);
        // At the ends, one may be without the other.
        let in_sync = late.iter().all(|late| late.abs() <= LIP_SYNC);
        demand(in_sync && late.len() + 2 >= count / RATE, format!("sound is late by {late:.1?}"));
        let sorted = sorted(&late);
        // Of the first and of the last minute, or of halves.
        let part = (late.len() / 2).min(60);
        let drift = median(&late[late.len() - part..]) - median(&late[..part]);
        let line = format!(
            "| {name} | {count} | {least:.1} to {most:.1} | {psnr:.1} | {ssim:.4} | {:.1} | {:.1} to {:.1} | {drift:+.2} |",
            median(&late),
            sorted[0],
            sorted[sorted.len() - 1],
        );
        (line, wrong)
    }

    /// PSNR in dB and SSIM, averages of so many pictures against those of the film from one on.
    fn likeness(&self, media: &Path, begin: usize, count: usize) -> (f64, f64) {
        let value = |filter: &str, key: &str, end: &str| {
            let from = |begin| {
                format!(
                    "trim=start_frame={begin}:end_frame={},settb=1/{RATE},setpts=N",
                    begin + count
                )
            };
            let graph = format!(
                "[0:v]{}[out];[1:v]{},format=yuv420p[film];[out][film]{filter}",
                from(0),
                from(begin)
            );
            let mut compare = Command::new("ffmpeg");
            compare
                .args(["-hide_banner", "-y", "-nostdin", "-v", "info", "-nostats", "-i"])
                .arg(media);
            if self.kept == Kept::Raw {
                compare.args(["-stream_loop", "-1"]);
            }
            compare.arg("-i").arg(&self.path).args(["-filter_complex", &graph, "-f", "null", "-"]);
            let output = compare.output().expect("ffmpeg runs");
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            let of_filter = |line: &&str| line.contains(&format!("Parsed_{filter}"));
            let said = log.lines().filter(of_filter).find_map(|line| line.split_once(key));
            let value = said.and_then(|(_, said)| said.split(end).next());
            let value = value.and_then(|value| value.trim().parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("{filter}: {log}"))
        };
        (value("psnr", "average:", " "), value("ssim", "All:", " "))
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(values: &[f64]) -> f64 {
    sorted(values)[values.len() / 2]
}

/// When a medium starts, in seconds on its own clock.
fn start(media: &Path) -> f64 {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-show_entries", "format=start_time", "-of", "csv=p=0"]);
    without_complaint(ffprobe.arg(media)).trim().parse().unwrap_or_default()
}

/// Codecs, pictures' first, the pictures' edges, and what ffprobe complains of.
fn description(media: &Path) -> (Vec<String>, [String; 2], String) {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "warning", "-show_streams", "-of", "default=nw=1"]);
    let output = ffprobe.arg(media).output().expect("ffprobe comes with ffmpeg");
    let text = String::from_utf8(output.stdout).expect("text");
    let values = |key: &str| -> Vec<String> {
        let found = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.map(str::to_owned).collect()
    };
    let mut codecs = values("codec_name");
    codecs.sort_by_key(|codec| codec != "h264");
    let edge = |key| values(key).into_iter().next().expect("an edge");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    (codecs, [edge("width"), edge("height")], complaint)
}

/// Pushes the film, watches with every output at once, and looks at all of them.
fn run(sender: Sender, name: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = if sender == Sender::Broadcaster { Kept::Raw } else { Kept::Encoded };
    let length = if kept == Kept::Raw { 10 } else { seconds() + MARGIN };
    let film = Film::of(film(folder.path(), kept, length), kept);
    let (rendezvous, at) = local::rendezvous();
    let port = free_port();
    let mut command = program("punchcast-broadcaster");
    command.args(["--rendezvous", &at.to_string(), "--bind", "127.0.0.1:0"]);
    command.args(["--source", &sender.source(port, &film.path), "--state"]).arg(folder.path());
    let broadcaster = Running::start(&mut command, false);
    if sender != Sender::Broadcaster {
        wait_until("the broadcaster listens", || is_open(port));
    }
    let pushing = sender.push(port, &film.path);
    let link = broadcaster.line(|line| line.starts_with("punchcast://"));

    let path = |name: &str| folder.path().join(name);
    let mut media: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut outputs = Vec::new();
    for name in ["out.mkv", "out.mp4", "out.ts"] {
        media.insert(name, path(name));
        outputs.push(format!("record:{}", path(name).display()));
    }
    media.insert("hls", path("www/live.m3u8"));
    outputs.push(format!("hls:{}?keep=100000", path("www").display()));
    media.insert("udp", path("udp.ts"));
    let datagrams = Datagrams::write_to(&media["udp"]);
    outputs.push(format!("udp://127.0.0.1:{}", datagrams.port));
    media.insert("srt", path("srt.ts"));
    let calling = free_port();
    let mut receiver = ffmpeg();
    receiver.args(["-v", "error", "-i", &format!("srt://127.0.0.1:{calling}?mode=listener")]);
    receiver.args(["-map", "0", "-c", "copy", "-copyts"]).arg(&media["srt"]);
    let mut receiver = Helper::start(receiver.stderr(Stdio::null()));
    wait_until("ffmpeg listens", || is_open(calling));
    outputs.push(format!("srt://127.0.0.1:{calling}?latency=500ms"));

    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--for", &format!("{}s", seconds()), "--stats", "json"]);
    outputs.iter().for_each(|output| {
        viewer.args(["--output", output]);
    });
    let mut viewer = Running::start(&mut viewer, false);
    let patience = Duration::from_secs(seconds() as u64) + PATIENCE;
    assert!(lab::eventually(patience, || viewer.try_wait().is_some()), "the viewer ends");
    assert!(viewer.try_wait().is_some_and(|status| status.success()));
    if let Some(mut pushing) = pushing {
        let still = pushing.0.try_wait().expect("a child");
        assert!(still.is_none(), "the film is longer than what is watched: {still:?}");
        pushing.interrupt();
    }
    drop((broadcaster, rendezvous));
    receiver.end();
    datagrams.end();

    let mut table = format!(
        "{name}, {} s; the film's own sound is late by {:.1} ms\n\
         | output | pictures | from one to the next, ms | PSNR | SSIM | sound late, ms | from, to | drift |\n",
        seconds(),
        film.late
    );
    let mut wrong = Vec::new();
    for (name, media) in &media {
        let (line, found) = film.check(name, media);
        writeln!(table, "{line}").expect("memory");
        wrong.extend(found);
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_ffmpeg_pushes_by_rtmp_comes_out_everywhere() {
    run(Sender::Rtmp, "ffmpeg by RTMP");
}

#[test]
fn what_ffmpeg_pushes_by_srt_comes_out_everywhere() {
    run(Sender::Srt, "ffmpeg by SRT");
}

#[test]
fn what_gstreamer_pushes_by_rtp_comes_out_everywhere() {
    run(Sender::Rtp, "GStreamer by RTP");
}

#[test]
fn what_is_encoded_here_comes_out_everywhere() {
    run(Sender::Broadcaster, "encoded by the broadcaster");
}
