//! Showing what a broadcaster offers: channels and stored files.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use protocol::control::{ChannelEntry, Refusal, Request, Response, close};
use protocol::library::{FileEntry, StoredTrack};
use protocol::link::{Link, Target};
use quinn::VarInt;
use serde_json::{Value, json};
use service::exit::Failure;

use crate::asking::{ask, not_asked, refused};
use crate::config::List;
use crate::fetch::{printable, short_name};
use crate::meeting::{Met, Viewer};

/// Most files that are listed.
const MOST_FILES: usize = 100_000;

/// Longest name of a picture, in bytes, without its ending: file systems take 255.
const MOST_NAME: usize = 240;

/// Meets the broadcaster, asks, and prints a table or an object.
pub(crate) async fn run(config: List) -> Result<(), Failure> {
    let (viewer, _media) = Viewer::open(None)?;
    let met = viewer.meet(&config.target, false, |_| {}).await?;
    let link = &config.target.link;
    let channels = channels(&met, link).await?;
    let files = files(&met, link).await?;
    if let Some(folder) = &config.thumbnails {
        save_thumbnails(&met, link, &files, folder).await?;
    }
    met.connection.close(VarInt::from_u32(close::DONE), b"");
    let text = if config.json { object(link, &channels, &files) } else { table(&channels, &files) };
    // Whoever reads may have seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    viewer.port.endpoint().wait_idle().await;
    Ok(())
}

async fn channels(met: &Met, link: &Link) -> Result<Vec<ChannelEntry>, Failure> {
    let list = Request::List { secret: link.secret.clone() };
    match ask(met, &list).await?.2 {
        Response::Catalogue { channels } => Ok(channels),
        Response::Refused { reason } => Err(refused(reason, "")),
        _ => Err(not_asked()),
    }
}

async fn files(met: &Met, link: &Link) -> Result<Vec<FileEntry>, Failure> {
    let mut all: Vec<FileEntry> = Vec::new();
    while all.len() < MOST_FILES {
        let after = all.last().map(|file| file.path.clone());
        let request = Request::Files { secret: link.secret.clone(), after };
        match ask(met, &request).await?.2 {
            Response::Files { files, more } => {
                let is_last = !more || files.is_empty();
                all.extend(files);
                if is_last {
                    break;
                }
            }
            // No library, or a broadcaster that knows of none.
            Response::Refused { reason: Refusal::UnknownFile | Refusal::Malformed } => break,
            Response::Refused { reason } => return Err(refused(reason, "")),
            _ => return Err(not_asked()),
        }
    }
    Ok(all)
}

async fn save_thumbnails(
    met: &Met,
    link: &Link,
    files: &[FileEntry],
    folder: &Path,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::runtime(format!("cannot write thumbnails to {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    for file in files.iter().filter(|file| file.has_thumbnail) {
        let (path, secret) = (file.path.clone(), link.secret.clone());
        match ask(met, &Request::Thumbnail { path, secret }).await?.2 {
            Response::Thumbnail { jpeg: Some(jpeg) } if jpeg.starts_with(&[0xff, 0xd8]) => {
                std::fs::write(folder.join(thumbnail_name(&file.path)), jpeg).map_err(failed)?;
            }
            // Gone meanwhile.
            _ => {}
        }
    }
    Ok(())
}

/// The name of a file's picture: no two files' are the same.
fn thumbnail_name(path: &str) -> String {
    let mut name = String::new();
    for c in path.chars() {
        match c {
            '/' | '\\' | '%' => _ = write!(name, "%{:02X}", c as u32),
            c if c.is_control() => _ = write!(name, "%{:02X}", c as u32),
            c => name.push(c),
        }
    }
    short_name(&name, MOST_NAME) + ".jpg"
}

fn table(channels: &[ChannelEntry], files: &[FileEntry]) -> String {
    let mut table = format!("{:<24} TRACKS\n", "CHANNEL");
    for channel in channels {
        let tracks: Vec<String> = channel
            .formats
            .iter()
            .map(|format| {
                let rendition =
                    format.rendition.as_deref().map(|name| format!(" {}", printable(name)));
                let (kind, encoding) = (format.kind, printable(&format.encoding_name));
                format!("{kind} {encoding}{}", rendition.unwrap_or_default())
            })
            .collect();
        let tracks = match tracks.is_empty() {
            true => "(its source is not there yet)".to_owned(),
            false => tracks.join(", "),
        };
        let _ = writeln!(table, "{:<24} {tracks}", printable(&channel.name));
    }
    if files.is_empty() {
        return table;
    }
    let _ = writeln!(table, "\n{:<40} {:>9} {:>10} TRACKS", "FILE", "LENGTH", "SIZE");
    for file in files {
        let duration = file.media.as_ref().and_then(|media| media.duration_us);
        let length = duration.map_or("-".to_owned(), |us| clock(Duration::from_micros(us)));
        let what = match (&file.media, &file.problem) {
            (Some(media), _) => media.tracks.iter().map(track).collect::<Vec<_>>().join(", "),
            (None, Some(problem)) => format!("cannot be played: {}", printable(problem)),
            (None, None) => "(being looked at)".to_owned(),
        };
        let (path, size) = (printable(&file.path), size(file.bytes));
        let _ = writeln!(table, "{path:<40} {length:>9} {size:>10} {what}");
    }
    table
}

fn track(track: &StoredTrack) -> String {
    let mut text = printable(&track.codec);
    if !track.detail.is_empty() {
        let _ = write!(text, " {}", printable(&track.detail));
    }
    if let Some(language) = &track.language {
        let _ = write!(text, " {}", printable(language));
    }
    if !track.passes_through {
        text += " (encoded anew)";
    }
    text
}

/// Hours, minutes and seconds.
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut unit) = (bytes as f64, 0);
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

fn object(link: &Link, channels: &[ChannelEntry], files: &[FileEntry]) -> String {
    let channel = |channel: &ChannelEntry| {
        let tracks = channel.formats.iter().map(|format| {
            json!({
                "kind": format.kind.as_str(),
                "encoding": format.encoding_name,
                "rendition": format.rendition,
            })
        });
        json!({ "name": channel.name, "tracks": tracks.collect::<Vec<_>>() })
    };
    let file = |file: &FileEntry| {
        let tracks = file.media.iter().flat_map(|media| &media.tracks).map(|track| {
            json!({
                "kind": track.kind.as_str(),
                "codec": track.codec,
                "detail": track.detail,
                "passes_through": track.passes_through,
                "language": track.language,
            })
        });
        let duration = file.media.as_ref().and_then(|media| media.duration_us);
        let own = Link { target: Target::File(file.path.clone()), ..link.clone() };
        json!({
            "path": file.path,
            "link": own.to_string(),
            "bytes": file.bytes,
            "modified": file.modified,
            "duration_s": duration.map(|us| us as f64 / 1e6),
            "playable": file.media.is_some(),
            "problem": file.problem,
            "tracks": tracks.collect::<Vec<_>>(),
            "blake3": file.digest.map(|digest| digest.to_string()),
            "thumbnail": file.has_thumbnail,
        })
    };
    let value: Value = json!({
        "channels": channels.iter().map(channel).collect::<Vec<_>>(),
        "files": files.iter().map(file).collect::<Vec<_>>(),
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use protocol::library::StoredMedia;
    use protocol::media::Kind;

    use super::*;

    fn entry(path: &str) -> FileEntry {
        FileEntry {
            path: path.into(),
            bytes: 1_500_000,
            modified: 1,
            media: None,
            problem: Some("it is empty".into()),
            digest: None,
            has_thumbnail: false,
        }
    }

    #[test]
    fn pictures_have_names_of_their_own() {
        let long = |end| "ä/".repeat(300) + end;
        let paths = ["a/b", "a_b", "a%2Fb", "a\u{1b}b", &long("a"), &long("b")];
        let names: std::collections::BTreeSet<String> =
            paths.iter().map(|path| thumbnail_name(path)).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
        for name in &names {
            assert!(name.len() <= 244 && !name.contains(['/', '\u{1b}']), "{name}");
        }
    }

    #[test]
    fn files_are_listed_for_people_and_for_scripts() {
        let tracks = vec![StoredTrack {
            kind: Kind::Video,
            codec: "H.264".into(),
            detail: "640x360 25 fps".into(),
            passes_through: false,
            language: None,
        }];
        let media = StoredMedia { duration_us: Some(3_723_400_000), tracks };
        let film = FileEntry { media: Some(media), problem: None, ..entry("a/ä \u{1b}.mp4") };
        let files = [film, entry("b.txt")];
        let table = table(&[], &files);
        assert!(table.contains("a/ä ?.mp4"), "{table}");
        assert!(
            table.contains("1:02:03    1.4 MiB H.264 640x360 25 fps (encoded anew)"),
            "{table}"
        );
        assert!(table.contains("cannot be played: it is empty"), "{table}");
        let link = "punchcast://h:1/AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE/live#c2VjcmV0";
        let link: Link = link.parse().expect("legal");
        let value: Value = serde_json::from_str(&object(&link, &[], &files)).expect("JSON");
        assert_eq!(value["files"][0]["duration_s"], 3723.4);
        let own = value["files"][0]["link"].as_str().expect("a link");
        assert!(own.contains("/library/a/") && own.ends_with("#c2VjcmV0"), "{own}");
        assert_eq!(value["files"][1]["playable"], false);
    }
}
