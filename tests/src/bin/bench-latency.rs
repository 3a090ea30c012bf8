//! How long a picture takes from its capture to the screen, on one machine: pictures of 1280×720, 30 a second, with their
//! numbers burnt in go through x264, a broadcaster, loopback, a viewer and its window on an X server, whose memory
//! is looked at. Beside it, GStreamer's elements alone, by RTP and a jitter buffer of the same latency.
//!
//! `bench-latency [SECONDS]` (60 for each case) prints a table. The programs are those of this program's own folder.

use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use tests::lab::eventually;
use tests::local::{Running, broadcaster, program, rendezvous};
use tests::stored::{self, MARK_LINES, Screen};

/// Edges of the pictures, in pixels, and how many come a second.
const WIDTH: usize = 1280;
const HEIGHT: usize = 720;
const RATE: u32 = 30;

/// How often the screen is looked at.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pictures that are left out at first: whoever joins catches up.
const FIRST: usize = 60;

/// As the broadcaster sets it.
const X264: &str = "x264enc tune=zerolatency speed-preset=superfast threads=1 sliced-threads=false aud=false bitrate=2500 \
    key-int-max=60 option-string=scenecut=0";

/// What is measured.
enum Case {
    /// A viewer with this `--latency`.
    Viewer(&'static str),
    /// GStreamer's jitter buffer with this latency, in milliseconds.
    Peer(u32),
}

const CASES: [Case; 7] = [
    Case::Viewer("200ms"),
    Case::Viewer("auto"),
    Case::Viewer("60ms"),
    Case::Viewer("30ms"),
    Case::Peer(200),
    Case::Peer(60),
    Case::Peer(30),
];

fn main() -> Result<()> {
    let seconds = env::args().nth(1).map_or(Ok(60), |text| text.parse());
    let seconds: u64 = seconds.context("usage: bench-latency [SECONDS]")?;
    gst::init()?;
    println!("{}\n", tests::bench::environment::describe());
    println!(
        "| case | pictures | shown | p50 | p95 | p99 | most | encoder, mean | looks apart, mean |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for case in &CASES {
        let folder = tempfile::tempdir()?;
        let camera = Camera::start(&folder.path().join("camera"))?;
        // A window takes no more than nine tenths of it.
        let screen = Screen::sized(WIDTH as u32 * 5 / 4, HEIGHT as u32 * 5 / 4)?;
        let row = match case {
            Case::Viewer(latency) => of_viewer(&camera, &screen, folder.path(), latency, seconds)?,
            Case::Peer(latency) => of_peer(&camera, &screen, *latency, seconds)?,
        };
        println!("{row}");
    }
    Ok(())
}

fn of_viewer(
    camera: &Camera,
    screen: &Screen,
    folder: &Path,
    latency: &str,
    seconds: u64,
) -> Result<String> {
    let (_rendezvous, at) = rendezvous();
    let metrics = free_address()?;
    let source = format!("pipeline:{}", camera.source());
    let (_broadcaster, link) = broadcaster(at, folder, &source, &["--metrics", &metrics]);
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--output", "window", "--latency", latency]);
    let _viewer = Running::start(viewer.env("DISPLAY", screen.display()), true);
    let seen = camera.look_at(screen, seconds)?;
    let text = scrape(&metrics)?;
    let metric = |name: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let sum = metric("punchcast_encoder_seconds_sum");
    let count = metric("punchcast_encoder_seconds_count");
    let encoder = sum.zip(count).map(|(sum, count)| sum / count * 1e3);
    Ok(seen.row(&format!("viewer, `--latency {latency}`"), encoder))
}

fn of_peer(camera: &Camera, screen: &Screen, latency: u32, seconds: u64) -> Result<String> {
    let port = free_address()?;
    let port = port.rsplit(':').next().context("a port")?;
    let launch = |pipeline: &str| {
        let mut launch = Command::new("gst-launch-1.0");
        launch.arg("-q").args(pipeline.split_whitespace()).env("DISPLAY", screen.display());
        launch.stdin(Stdio::null()).spawn().map(Peer).context("gst-launch-1.0")
    };
    let _receiver = launch(&format!(
        "udpsrc port={port} buffer-size=2000000 \
         caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96 \
         ! rtpjitterbuffer latency={latency} ! rtph264depay ! h264parse ! avdec_h264 ! videoconvert ! ximagesink"
    ))?;
    let _sender = launch(&format!(
        "{} ! videoconvert ! {X264} ! rtph264pay aggregate-mode=zero-latency config-interval=-1 pt=96 mtu=1200 \
         ! udpsink host=127.0.0.1 port={port} sync=false",
        camera.source()
    ))?;
    let seen = camera.look_at(screen, seconds)?;
    Ok(seen.row(&format!("GStreamer, `latency={latency}`"), None))
}

/// A program of the peer's. Dropping it ends it.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a program tells of itself.
fn scrape(address: &str) -> Result<String> {
    let mut connection = TcpStream::connect(address)?;
    write!(connection, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}

fn free_address() -> Result<String> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.to_string())
}

/// Gives pictures with their numbers, as a camera does, in shared memory.
struct Camera {
    socket: String,
    /// When each picture was captured.
    captured: Arc<Mutex<Vec<Instant>>>,
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    pipeline: gst::Pipeline,
}

impl Camera {
    fn start(socket: &Path) -> Result<Self> {
        let pipeline = gst::Pipeline::new();
        let source = gst_app::AppSrc::builder().format(gst::Format::Time).is_live(true).build();
        let sink = gst::ElementFactory::make("shmsink")
            .property("socket-path", socket.to_str())
            .property("shm-size", 64u32 << 20)
            .property("wait-for-connection", false)
            .property("sync", false)
            .build()?;
        pipeline.add_many([source.upcast_ref(), &sink])?;
        source.link(&sink)?;
        pipeline.set_state(gst::State::Playing)?;
        let (captured, ends) =
            (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<AtomicBool>::default());
        let (told, until) = (captured.clone(), ends.clone());
        let thread = thread::spawn(move || capture(&source, &told, &until));
        ensure!(eventually(PATIENCE, || socket.exists()), "no shared memory");
        let socket = socket.display().to_string();
        Ok(Self { socket, captured, ends, thread: Some(thread), pipeline })
    }

    /// What takes its pictures, in gst-launch's words.
    fn source(&self) -> String {
        format!(
            "shmsrc socket-path={} is-live=true do-timestamp=true \
             ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={RATE}/1",
            self.socket
        )
    }

    /// Looks at a screen for so long, from when something is shown on it.
    fn look_at(&self, screen: &Screen, seconds: u64) -> Result<Seen> {
        ensure!(
            eventually(PATIENCE, || screen.number_in_corner(WIDTH, HEIGHT).is_some()),
            "nothing is shown"
        );
        let began = Instant::now();
        let until = began + Duration::from_secs(seconds);
        let (mut late, mut last, mut looks) = (Vec::new(), None, 0_u32);
        let mut first = None;
        while Instant::now() < until {
            thread::sleep(LOOK_INTERVAL);
            looks += 1;
            let Some(number) = screen.number_in_corner(WIDTH, HEIGHT) else { continue };
            let now = Instant::now();
            if last.replace(number) == Some(number) {
                continue;
            }
            first.get_or_insert(number);
            let captured = self.captured.lock().expect("nobody panicked");
            let at = captured.get(usize::from(number)).context("a picture of the future")?;
            late.push(now - *at);
        }
        let pictures = first.zip(last).map_or(0, |(first, last)| last - first + 1);
        let late = late.split_off(FIRST.min(late.len()));
        ensure!(!late.is_empty(), "too few pictures");
        let shown = late.len() + FIRST;
        let apart = began.elapsed() / looks;
        Ok(Seen { late, shown, pictures: usize::from(pictures), apart })
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// Draws and gives pictures at their times.
fn capture(source: &gst_app::AppSrc, captured: &Mutex<Vec<Instant>>, ends: &AtomicBool) {
    let contents: Vec<Vec<u8>> = (0..RATE as usize).map(content).collect();
    let began = Instant::now();
    for number in 0..u16::MAX {
        if ends.load(Ordering::SeqCst) {
            return;
        }
        let due = began + Duration::from_secs(u64::from(number)) / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut picture = contents[usize::from(number) % contents.len()].clone();
        draw(&mut picture, number);
        captured.lock().expect("nobody panicked").push(Instant::now());
        if source.push_buffer(gst::Buffer::from_mut_slice(picture)).is_err() {
            return;
        }
    }
}

/// Slopes that move, in I420.
fn content(at: usize) -> Vec<u8> {
    let bounce =
        |step: usize, bound: usize| (step % (2 * bound)).min(2 * bound - step % (2 * bound));
    let step = 2 * at * 200 / (2 * RATE as usize);
    let brightness = |x: usize, y: usize| 60 + bounce(x / 2 + y + step, 100) as u8;
    let mut picture: Vec<u8> =
        (0..WIDTH * HEIGHT).map(|pixel| brightness(pixel % WIDTH, pixel / WIDTH)).collect();
    picture.resize(WIDTH * HEIGHT * 3 / 2, 128);
    picture
}

/// Draws the number, as large as the picture is.
fn draw(picture: &mut [u8], number: u16) {
    let mut mark = vec![128; stored::WIDTH * stored::HEIGHT];
    stored::draw(&mut mark, number, false);
    let scale = WIDTH / stored::WIDTH;
    for (y, line) in picture.chunks_exact_mut(WIDTH).take(MARK_LINES * scale).enumerate() {
        let from = &mark[y / scale * stored::WIDTH..];
        line.iter_mut().enumerate().for_each(|(x, pixel)| *pixel = from[x / scale]);
    }
}

/// What was seen.
struct Seen {
    /// From capture to the screen.
    late: Vec<Duration>,
    shown: usize,
    pictures: usize,
    /// Between two looks.
    apart: Duration,
}

impl Seen {
    fn row(mut self, name: &str, encoder: Option<f64>) -> String {
        self.late.sort();
        let ms = |at: Duration| at.as_secs_f64() * 1e3;
        let share = |share: usize| ms(self.late[(self.late.len() - 1) * share / 100]);
        let encoder = encoder.map_or("—".to_owned(), |ms| format!("{ms:.1} ms"));
        format!(
            "| {name} | {} | {} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms | {encoder} | {:.2} ms |",
            self.pictures,
            self.shown,
            share(50),
            share(95),
            share(99),
            share(100),
            ms(self.apart),
        )
    }
}
