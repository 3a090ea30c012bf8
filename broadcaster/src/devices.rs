//! `punchcast-broadcaster devices`: what this machine can broadcast, as a table or as JSON.

use std::fmt::Write as _;

use serde_json::json;
use service::exit::Failure;

use crate::media::devices::{Camera, Microphone, cameras, microphones};
use crate::media::screen::{Screen, is_wayland, screens};
use crate::media::{Present, present};

/// Looks, and says what is to be printed.
///
/// # Errors
///
/// Where GStreamer does not start.
pub(crate) fn show(as_json: bool) -> Result<String, Failure> {
    let (cameras, microphones, screens) = (cameras()?, microphones()?, screens()?);
    let encoders = present()?;
    if as_json {
        let all = json!({
            "cameras": cameras,
            "microphones": microphones,
            "screens": screens,
            "portal": is_wayland(),
            "encoders": encoders,
        });
        return Ok(format!("{all}\n"));
    }
    let tables = [
        camera_table(&cameras),
        screen_table(&screens, is_wayland()),
        microphone_table(&microphones),
        encoder_table(&encoders),
    ];
    Ok(tables.join("\n"))
}

fn encoder_table(encoders: &[Present]) -> String {
    let mut text = format!("{:<28} {:<24} {}\n", "video.encoder", "ENCODES", "WITH");
    for Present { encoder, element, codec } in encoders {
        let name = encoder.to_string();
        let _ = writeln!(text, "{name:<28} {codec:<24} {element}");
    }
    text
}

fn camera_table(cameras: &[Camera]) -> String {
    if cameras.is_empty() {
        return "no camera found\n".to_owned();
    }
    let mut text = format!("{:<28} {:<24} {}\n", "--source", "CAMERA", "MODES");
    for camera in cameras {
        let named = match &camera.device {
            Some(device) => device.clone(),
            None => camera.number.to_string(),
        };
        let named = format!("camera:{named}");
        let modes = by_form(camera);
        let first = modes.first().map_or("known once it runs", String::as_str);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{named:<28} {:<24} {first}", camera.name);
        for more in modes.iter().skip(1) {
            let _ = writeln!(text, "{:<28} {:<24} {more}", "", "");
        }
    }
    text
}

/// A line for each form: its sizes, each with its rate.
fn by_form(camera: &Camera) -> Vec<String> {
    camera
        .modes
        .chunk_by(|one, other| one.form == other.form)
        .map(|modes| {
            let form = modes[0].form.name();
            let sizes: Vec<_> = modes
                .iter()
                .map(|mode| mode.to_string().trim_start_matches(form).trim_start().to_owned())
                .collect();
            format!("{form}: {}", sizes.join(", "))
        })
        .collect()
}

/// Of X displays, and of a Wayland desktop's portal where there is one.
fn screen_table(screens: &[Screen], portal: bool) -> String {
    if screens.is_empty() && !portal {
        return "no screen found\n".to_owned();
    }
    let mut text = format!("{:<28} SIZE\n", "--source");
    if portal {
        let _ =
            writeln!(text, "{:<28} as the desktop's user chooses, who is asked", "screen:portal");
    }
    for Screen { display, width, height } in screens {
        let _ = writeln!(text, "{:<28} {width}x{height}", format!("screen:{display}"));
    }
    text
}

fn microphone_table(microphones: &[Microphone]) -> String {
    if microphones.is_empty() {
        return "no microphone found\n".to_owned();
    }
    let mut text = format!("{:<28} {:>8}  {}\n", "MICROPHONE", "CHANNELS", "IN A PIPELINE");
    for microphone in microphones {
        let channels = microphone.channels.map_or_else(|| "?".to_owned(), |most| most.to_string());
        let pipeline = microphone.pipeline.as_deref().unwrap_or("-");
        let _ = writeln!(text, "{:<28} {channels:>8}  {pipeline}", microphone.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microphones_are_told_with_the_words_for_a_pipeline() {
        let microphone = Microphone {
            number: 1,
            name: "Desk".to_owned(),
            channels: Some(2),
            is_monitor: false,
            pipeline: Some("pulsesrc device=desk".to_owned()),
        };
        let table = microphone_table(&[microphone]);
        let row: Vec<_> = table.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(row, ["Desk", "2", "pulsesrc", "device=desk"]);
        assert_eq!(microphone_table(&[]), "no microphone found\n");
    }
}
