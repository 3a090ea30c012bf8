//! What the operator asks of a running broadcaster: over a Unix socket in its state folder, which nobody else may
//! open. A question is one line of JSON, and so is its answer.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::channel::ViewerId;
use protocol::link::{Link, Target};
use protocol::units::Bitrate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::exit::Failure;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::links::LinksError;
use crate::live::Live;
use crate::minted::Minted;
use crate::moment::Moment;
use crate::rates::Changed;
use crate::shared::{Revoked, Shared};

/// The socket's name in the state folder.
const NAME: &str = "control.sock";

/// Longest path of a Unix socket, in bytes: `sun_path` less its end (unix(7)).
const LONGEST_PATH: usize = 107;

/// Questions that are answered at once, and how long each may take.
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest question and answer, in bytes.
const MOST_ASKED: u64 = 4096;
const MOST_ANSWERED: u64 = 64 << 20;

/// Where viewers' numbers come from.
const SHOWN: &str = "punchcast-broadcaster viewers list shows who is here";

/// What an operator asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// Who is here?
    ListViewers,
    /// Let this viewer in, which knocks.
    AdmitViewer(u32),
    /// Send this viewer away, and let nobody in from its address again.
    RemoveViewer(u32),
    /// Mint a link.
    NewLink(NewLink),
    /// Which links are there?
    ListLinks,
    /// Let nobody in by this link any more, and send away who came by it.
    RevokeLink(String),
    /// What are the pictures of this channel encoded at? It may be left out where there is one.
    ListBitrates(Option<String>),
    /// Encode them at another rate.
    SetBitrate(NewBitrate),
}

/// A bitrate as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBitrate {
    pub(crate) rate: Bitrate,
    /// Of which rendition; of the picture itself without one.
    pub(crate) rendition: Option<String>,
    /// Of which channel, where there are several.
    #[serde(default)]
    pub(crate) channel: Option<String>,
}

/// A link as it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NewLink {
    /// What it is called.
    pub(crate) name: Option<String>,
    /// For how long it opens, in seconds.
    pub(crate) lasts: Option<u64>,
    /// For how many viewers.
    pub(crate) uses: Option<u32>,
    /// The stored file that it leads to, in place of a channel.
    pub(crate) file: Option<String>,
    /// The channel that it leads to, where there are several.
    #[serde(default)]
    pub(crate) channel: Option<String>,
}

/// Where the socket is in a state folder.
///
/// # Errors
///
/// Where no socket has so long a path: nobody could be let in, removed or asked about.
pub(crate) fn socket_in(state: &Path) -> Result<PathBuf, Failure> {
    let path = state.join(NAME);
    let length = path.as_os_str().len();
    if length > LONGEST_PATH {
        return Err(Failure::usage(format!(
            "the operator's socket, {}, has a path of {length} bytes, and {LONGEST_PATH} are \
             possible; give a shorter --state",
            path.display()
        )));
    }
    Ok(path)
}

/// A socket that questions come in by; gone when dropped.
pub(crate) struct Desk {
    listener: UnixListener,
    path: PathBuf,
}

impl Desk {
    /// Opens the socket in a state folder. What a process left there that is gone is replaced.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = socket_in(state).map_err(io::Error::other)?;
        if UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another broadcaster with this state folder runs; give this one another with --state",
            ));
        }
        // Nobody else reaches it before its permissions are set. The name is short, as a socket's path must be.
        let apart = tempfile::Builder::new()
            .prefix("s")
            .rand_bytes(6)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(state)?;
        let bound = apart.path().join("s");
        let listener = UnixListener::bind(&bound)?;
        std::fs::set_permissions(&bound, Permissions::from_mode(0o600))?;
        std::fs::rename(&bound, &path)?;
        Ok(Self { listener, path })
    }

    /// Answers questions for as long as it is polled.
    pub(crate) async fn answer_all(&self, shared: &Arc<Shared>) {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors: some are free again soon.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let _turn = turn;
                let served = tokio::time::timeout(PATIENCE, serve(stream, &shared)).await;
                if let Ok(Err(error)) = served {
                    tracing::debug!(%error, "an operator was not answered");
                }
            });
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // One that is left is replaced by the next.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(mut stream: tokio::net::UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (asking, mut answering) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(asking.take(MOST_ASKED)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => {
            let shared = Arc::clone(shared);
            // Links are written to a disk.
            let answering = tokio::task::spawn_blocking(move || answer(&question, &shared));
            answering.await.map_err(io::Error::other)?
        }
        Err(error) => refused(format_args!("not understood: {error}")),
    };
    answering.write_all(format!("{answer}\n").as_bytes()).await
}

/// An answer that says why not. What failed here, or cannot be now, is no wrong usage.
fn refused(reason: impl std::fmt::Display) -> Value {
    json!({ "error": reason.to_string() })
}

/// An answer that says what to ask instead.
fn wrong_usage(reason: impl std::fmt::Display) -> Value {
    json!({ "error": reason.to_string(), "is_usage": true })
}

/// The live channel that is meant: the one of this name, or the only one. Else an answer that says so.
fn live_meant<'a>(name: Option<&str>, shared: &'a Shared) -> Result<&'a Arc<Live>, Value> {
    let none = "there is no live channel, only stored files";
    match (name, &shared.live[..]) {
        (_, []) => Err(refused(none)),
        (None, [alone]) => Ok(alone),
        (None, _) => {
            Err(wrong_usage(format_args!("name a channel with --channel; {}", named(shared))))
        }
        (Some(name), _) => shared.live_named(name).ok_or_else(|| {
            wrong_usage(format_args!("there is no channel '{name}'; {}", named(shared)))
        }),
    }
}

/// Which channels there are.
fn named(shared: &Shared) -> String {
    let names: Vec<&str> = shared.live.iter().map(|live| &*live.name).collect();
    format!("there are: {}", names.join(", "))
}

fn refused_link(error: &LinksError) -> Value {
    json!({ "error": error.to_string(), "is_usage": matches!(error, LinksError::Name) })
}

fn answer(question: &Question, shared: &Shared) -> Value {
    match question {
        Question::ListViewers => json!({ "viewers": shared.viewers_shown() }),
        Question::AdmitViewer(viewer) => match shared.door.admit(ViewerId(*viewer)) {
            true => json!({ "admitted": viewer }),
            false => refused(format_args!("no viewer {viewer} knocks; {SHOWN}")),
        },
        Question::RemoveViewer(viewer) => match shared.remove(ViewerId(*viewer)) {
            true => json!({ "removed": viewer }),
            false => refused(format_args!("there is no viewer {viewer}; {SHOWN}")),
        },
        Question::NewLink(wanted) => mint(wanted.clone(), shared),
        Question::ListLinks => {
            let links: Vec<Value> = shared.links.list(Moment::now()).iter().map(shown).collect();
            json!({ "links": links, "is_open": shared.secret.is_none() && !shared.links_only })
        }
        Question::RevokeLink(name) => match shared.revoke(name) {
            Ok(Revoked { viewers, saved: Ok(()) }) => {
                json!({ "revoked": name, "viewers": viewers })
            }
            Ok(Revoked { viewers, saved: Err(error) }) => refused(format_args!(
                "link '{name}' opens no more, and {viewers} viewers are sent away, but it opens \
                 again after a restart: {error}; make room there, and revoke it again"
            )),
            Err(error) => refused_link(&error),
        },
        Question::ListBitrates(channel) => match live_meant(channel.as_deref(), shared) {
            Ok(live) => live.rates_shown(),
            Err(answer) => answer,
        },
        Question::SetBitrate(NewBitrate { rate, rendition, channel }) => {
            let live = match live_meant(channel.as_deref(), shared) {
                Ok(live) => live,
                Err(answer) => return answer,
            };
            let told = (&*shared.audience, &*shared.metrics.events);
            match live.set_bitrate((rendition.as_deref(), *rate), told) {
                Ok(Changed { rendition, before, is_later }) => json!({
                    "rendition": rendition.as_deref(),
                    "before_bps": before.as_bits_per_second(),
                    "is_later": is_later,
                }),
                Err(error) => {
                    json!({ "error": error.to_string(), "is_usage": error.is_usage() })
                }
            }
        }
    }
}

fn mint(NewLink { name, lasts, uses, file, channel }: NewLink, shared: &Shared) -> Value {
    let Some(base) = shared.link.get() else {
        return refused("the broadcaster is only starting; try again");
    };
    let target = match file {
        Some(file) => Target::File(file),
        // Where only files are offered, it leads to nothing live either.
        None if shared.live.is_empty() && channel.is_none() => base.target.clone(),
        None => match live_meant(channel.as_deref(), shared) {
            Ok(live) => Target::Channel(live.name.to_string()),
            Err(answer) => return answer,
        },
    };
    match shared.links.mint(name, lasts.map(Duration::from_secs), uses, Moment::now()) {
        Ok((name, secret)) => {
            let link = Link { target, secret: Some(secret), ..base.clone() };
            let is_open = shared.secret.is_none() && !shared.links_only;
            json!({ "name": name, "link": link.to_string(), "is_open": is_open })
        }
        Err(error) => refused_link(&error),
    }
}

/// A link as the operator sees it: never its secret.
fn shown((link, opens_for): &(Minted, Option<Duration>)) -> Value {
    json!({
        "name": link.name,
        "made": link.made,
        "expires": link.expires,
        "opens_for": opens_for.map(|left| left.as_secs() + u64::from(left.subsec_nanos() > 0)),
        "uses": link.uses,
        "used": link.used,
    })
}

/// Asks the broadcaster that runs with this state folder.
fn ask(state: &Path, question: &Question) -> Result<Value, Failure> {
    let path = socket_in(state)?;
    let failed = |error: io::Error| {
        Failure::runtime(format!(
            "no broadcaster answers at {}: {error}; is it running, and is --state its folder?",
            path.display()
        ))
    };
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let question = serde_json::to_string(question).map_err(Failure::runtime)?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream.take(MOST_ANSWERED)).read_line(&mut line).map_err(failed)?;
    let answer: Value = serde_json::from_str(&line).map_err(Failure::runtime)?;
    match answer["error"].as_str() {
        Some(error) if answer["is_usage"] == true => Err(Failure::usage(error)),
        Some(error) => Err(Failure::runtime(error)),
        None => Ok(answer),
    }
}

/// Shows who watches.
pub(crate) fn list_viewers(state: &Path, as_json: bool) -> Result<String, Failure> {
    let answer = ask(state, &Question::ListViewers)?;
    if as_json {
        return Ok(format!("{answer}\n"));
    }
    let none = Vec::new();
    Ok(table(answer["viewers"].as_array().unwrap_or(&none)))
}

/// Lets a viewer in that knocks.
pub(crate) fn admit_viewer(state: &Path, viewer: u32) -> Result<String, Failure> {
    ask(state, &Question::AdmitViewer(viewer))?;
    Ok(format!("viewer {viewer} is let in, and whoever comes from its address later\n"))
}

/// Sends a viewer away.
pub(crate) fn remove_viewer(state: &Path, viewer: u32) -> Result<String, Failure> {
    ask(state, &Question::RemoveViewer(viewer))?;
    Ok(format!("viewer {viewer} is sent away; nobody from its address is let in until a restart\n"))
}

/// What is said of links where they are not needed.
const OPEN: &str =
    "the channel is open to all; set links_only: true or a secret, or links tell nobody apart";

/// Mints a link. What is to be printed, and perhaps a warning.
pub(crate) fn new_link(state: &Path, wanted: NewLink) -> Result<String, Failure> {
    let answer = ask(state, &Question::NewLink(wanted))?;
    if answer["is_open"] == true {
        eprintln!("{OPEN}");
    }
    Ok(format!("{}\n", answer["link"].as_str().unwrap_or_default()))
}

/// Shows the links that there are.
pub(crate) fn list_links(state: &Path, as_json: bool) -> Result<String, Failure> {
    let answer = ask(state, &Question::ListLinks)?;
    if as_json {
        return Ok(format!("{answer}\n"));
    }
    let none = Vec::new();
    Ok(links(answer["links"].as_array().unwrap_or(&none)))
}

/// Lets nobody in by a link any more.
pub(crate) fn revoke_link(state: &Path, name: &str) -> Result<String, Failure> {
    let answer = ask(state, &Question::RevokeLink(name.to_owned()))?;
    Ok(format!("link '{name}' opens no more; {} viewers are sent away\n", answer["viewers"]))
}

/// Shows what the pictures are encoded at, and what of it is sent.
pub(crate) fn list_bitrates(
    state: &Path,
    channel: Option<String>,
    as_json: bool,
) -> Result<String, Failure> {
    let answer = ask(state, &Question::ListBitrates(channel))?;
    if as_json {
        return Ok(format!("{answer}\n"));
    }
    let none = Vec::new();
    let encoder = answer["encoder"].as_str().unwrap_or("-");
    let mut text = format!("{:<16} {:>10} {:>10}  {}\n", "RENDITION", "SET TO", "SENT", "ENCODER");
    for one in answer["pictures"].as_array().unwrap_or(&none) {
        let name = one["rendition"].as_str().unwrap_or("-");
        let set = one["set_bps"]
            .as_u64()
            .map_or("-".to_owned(), |rate| Bitrate::bits_per_second(rate).to_string());
        // To the kilobit: it is measured.
        let sent = one["sent_bps"].as_u64().unwrap_or(0).div_ceil(1000);
        let _ = writeln!(text, "{name:<16} {set:>10} {:>10}  {encoder}", format!("{sent}k"));
    }
    Ok(text)
}

/// Has the pictures encoded at another rate.
pub(crate) fn set_bitrate(state: &Path, wanted: NewBitrate) -> Result<String, Failure> {
    let answer = ask(state, &Question::SetBitrate(wanted.clone()))?;
    let what = answer["rendition"].as_str().unwrap_or("the picture");
    let before = Bitrate::bits_per_second(answer["before_bps"].as_u64().unwrap_or(0));
    let when = match answer["is_later"] == true {
        true => "once the source is there",
        false => "from now on",
    };
    let rate = wanted.rate;
    Ok(format!(
        "{what} is encoded at {rate} {when}, until the broadcaster ends; before: {before}\n"
    ))
}

fn links(links: &[Value]) -> String {
    let mut text = format!("{:<24} {:>12} {:>12}\n", "LINK", "VIEWERS", "OPENS FOR");
    for link in links {
        let uses = match link["uses"].as_u64() {
            Some(uses) => format!("{} of {uses}", link["used"]),
            None => link["used"].to_string(),
        };
        let left = match link["opens_for"].as_u64() {
            None => "ever".to_owned(),
            Some(0) => "expired".to_owned(),
            Some(left) => humantime::format_duration(Duration::from_secs(left)).to_string(),
        };
        let name = link["name"].as_str().unwrap_or_default();
        let _ = writeln!(text, "{name:<24} {uses:>12} {left:>12}");
    }
    text
}

fn table(viewers: &[Value]) -> String {
    let mut text = format!(
        "{:<8} {:<10} {:<10} {:<40} {:>9} {:>7} {:<16} {}\n",
        "VIEWER", "STATE", "PATH", "ADDRESS", "FOR", "LOSS", "LINK", "WANTS"
    );
    for viewer in viewers {
        let word = |key: &str| viewer[key].as_str().unwrap_or("-").to_owned();
        let since = viewer["since_seconds"].as_f64().unwrap_or(0.0) as u64;
        let loss =
            viewer["loss"].as_f64().map_or("-".to_owned(), |loss| format!("{:.1}%", loss * 100.0));
        let _ = writeln!(
            text,
            "{:<8} {:<10} {:<10} {:<40} {:>8}s {:>7} {:<16} {}",
            word("viewer"),
            word("state"),
            word("path"),
            word("remote"),
            since,
            loss,
            word("link"),
            word("wants")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use service::exit::Code;

    use super::*;

    #[test]
    fn questions_are_lines_of_json() {
        let wanted = NewBitrate {
            rate: Bitrate::bits_per_second(1_500_000),
            rendition: Some("480p".into()),
            channel: None,
        };
        let questions = [
            Question::ListViewers,
            Question::AdmitViewer(7),
            Question::RemoveViewer(7),
            Question::SetBitrate(wanted),
        ];
        for question in questions {
            let text = serde_json::to_string(&question).expect("it is plain");
            assert_eq!(serde_json::from_str::<Question>(&text).expect("the same"), question);
        }
        for text in ["", "{}", "\"list\"", "{\"remove_viewer\":-1}", "{\"remove_viewer\":\"x\"}"] {
            assert!(serde_json::from_str::<Question>(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let of_length = |length: usize| {
            let rest = length - folder.path().as_os_str().len() - NAME.len() - 2;
            folder.path().join("s".repeat(rest))
        };
        let longest = of_length(LONGEST_PATH);
        std::fs::create_dir(&longest).expect("room");
        let _desk = Desk::open(&longest).expect("it is just short enough");
        let long = of_length(LONGEST_PATH + 1);
        for failure in [
            socket_in(&long).expect_err("it is too long"),
            ask(&long, &Question::ListViewers).expect_err("it is too long"),
        ] {
            let told = ["108 bytes", "--state", long.to_str().expect("text")];
            assert!(told.iter().all(|word| failure.message.contains(word)), "{failure}");
            assert_eq!(failure.code, Code::Usage);
        }
    }

    #[test]
    fn links_are_a_table() {
        let link = json!({ "name": "a b", "uses": 3, "used": 1, "opens_for": 60 });
        let over = json!({ "name": "d", "uses": null, "used": 0, "opens_for": 0 });
        let ever = json!({ "name": "c", "uses": null, "used": 7, "opens_for": null });
        let text = links(&[link, ever, over]);
        let words = [["a b", "1 of 3", "1m"], ["c", "7", "ever"], ["d", "0", "expired"]];
        for (line, words) in text.lines().skip(1).zip(words) {
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
        }
    }

    #[test]
    fn viewers_are_a_table() {
        let viewer = json!({
            "viewer": "3", "state": "playing", "path": "reflexive", "remote": "198.51.100.7:5000",
            "since_seconds": 12.7, "loss": 0.012,
        });
        let knock = json!({
            "viewer": "4", "state": "knocking", "path": "relayed", "remote": "203.0.113.9:50000",
            "since_seconds": 3.0, "link": "grandma", "wants": "play films/a.mkv",
        });
        let text = table(&[viewer, knock]);
        let line = text.lines().nth(1).expect("one viewer");
        for word in ["3 ", "playing", "reflexive", "198.51.100.7:5000", "12s", "1.2%"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        let line = text.lines().nth(2).expect("who knocks");
        for word in ["4 ", "knocking", "relayed", "3s", "grandma", "play films/a.mkv"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        assert_eq!(table(&[]).lines().count(), 1);
    }

    #[tokio::test]
    async fn one_broadcaster_has_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let desk = Desk::open(folder.path()).expect("it is free");
        let mode = std::fs::metadata(folder.path().join(NAME)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left = std::fs::read_dir(folder.path()).expect("there").count();
        assert_eq!(left, 1, "only the socket is left");
        let taken = Desk::open(folder.path()).map(|_| ());
        let error = taken.expect_err("it is taken").to_string();
        assert!(error.contains("--state"), "{error}");
        drop(desk);
        // What a process left that was killed.
        drop(std::os::unix::net::UnixListener::bind(folder.path().join(NAME)).expect("free"));
        let desk = Desk::open(folder.path()).expect("nobody is there");
        let answered = UnixStream::connect(folder.path().join(NAME));
        assert!(
            answered.is_ok() && desk.listener.accept().await.is_ok(),
            "it is reached by its name"
        );
        drop(desk);
        // What fails is no wrong usage.
        let asked = |answer: Value| {
            let listener = std::os::unix::net::UnixListener::bind(folder.path().join(NAME))
                .expect("it is free");
            let answering = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a question");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a line");
                stream.write_all(format!("{answer}\n").as_bytes()).expect("it listens");
            });
            let asked = ask(folder.path(), &Question::ListViewers);
            answering.join().expect("it answered");
            std::fs::remove_file(folder.path().join(NAME)).expect("there");
            asked.expect_err("that is an error").code
        };
        let reason = io::Error::from(io::ErrorKind::StorageFull);
        let full = LinksError::Write { path: folder.path().join("links.json"), reason };
        assert_eq!(asked(refused_link(&full)), Code::Runtime);
        assert_eq!(asked(refused_link(&LinksError::Unknown("a".into()))), Code::Runtime);
        assert_eq!(asked(refused("no viewer 7 knocks")), Code::Runtime);
        assert_eq!(asked(refused_link(&LinksError::Name)), Code::Usage);
        let nowhere = folder.path().join("none");
        let nobody = ask(&nowhere, &Question::ListViewers).expect_err("nobody is there");
        assert!(nobody.to_string().contains("is it running"), "{nobody}");
    }
}
