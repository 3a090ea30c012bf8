//! What people see who start a broadcaster at a terminal: the link as a QR code, and what to do next.
//! Standard output has the link alone; all this goes to standard error, and only where that is a terminal: a link may
//! hold a secret, which belongs into no log.

use std::io::IsTerminal;

use protocol::link::Link;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use service::log::LogFormat;

use crate::config::{Config, Rendezvous};
use crate::media::SourceSpec;

/// For whom a rendezvous in this process does not do, and what does.
const ELSEWHERE: &str = "Viewers elsewhere need a rendezvous with a public address: run punchcast-rendezvous on such a \
                         machine, and start this with --rendezvous HOST:3478.";

/// Shows a person the link that was printed; tells a log how far it leads where nobody chose that.
pub(crate) fn welcome(config: &Config, link: &Link) {
    if std::io::stderr().is_terminal() && config.log_format == LogFormat::Text {
        let colours = std::env::var_os("NO_COLOR").is_none();
        eprint!("{}", text(config, &link.to_string(), colours));
    } else if config.is_rendezvous_unasked() {
        tracing::info!(
            "no rendezvous is named, so this process is one, for this network. {ELSEWHERE}"
        );
    }
}

/// The whole text, of several lines. `colours` says whether the terminal is told any.
fn text(config: &Config, link: &str, colours: bool) -> String {
    if config.links_only && config.secret.is_none() {
        return "\nOnly links that you mint let viewers in: punchcast-broadcaster link new\n"
            .to_owned();
    }
    let code = QrCode::with_error_correction_level(link, EcLevel::L);
    // A link too long for any code is left to be copied.
    let code = code.map(|code| draw(&code, colours)).unwrap_or_default();
    let place = match config.rendezvous() {
        Ok(Rendezvous::Embedded(_)) if config.advertise.is_none() => "on this network",
        _ => "anywhere",
    };
    let (verb, command) = match config.source() {
        SourceSpec::None => ("See what there is", "list"),
        _ => ("Watch", "watch"),
    };
    let further =
        if config.is_rendezvous_unasked() { format!("{ELSEWHERE}\n") } else { String::new() };
    format!(
        "\n{code}\n{verb} {place}: punchcast-viewer {command} '{link}'\n{further}Ctrl-C ends the broadcast.\n\n"
    )
}

/// Two rows of modules a line. With colours black on white, whatever the terminal's own; without, what is drawn is
/// the light part, as most terminals are dark.
fn draw(code: &QrCode, colours: bool) -> String {
    let mut renderer = code.render::<Dense1x2>();
    if !colours {
        renderer.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark);
    }
    let drawn = renderer.build();
    let line = |line: &str| match colours {
        true => format!("\x1b[30;107m{line}\x1b[0m\n"),
        false => format!("{line}\n"),
    };
    drawn.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use gstreamer as gst;
    use gstreamer::prelude::*;

    use super::*;

    const LINK: &str = "punchcast://192.168.178.20:3478/AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE/live#c2VjcmV0LXdvcmQ";

    /// Reads the code off a screen whose text is as dark as `text_is_dark` says, as a phone would.
    fn read(screen: &str, text_is_dark: bool) -> String {
        let is_code = |line: &&str| line.contains(['▀', '▄', '█']);
        let bare = screen.replace("\x1b[30;107m", "").replace("\x1b[0m", "");
        let mut rows: Vec<Vec<bool>> = Vec::new();
        for line in bare.lines().filter(is_code) {
            rows.push(line.chars().map(|c| matches!(c, '▀' | '█')).collect());
            rows.push(line.chars().map(|c| matches!(c, '▄' | '█')).collect());
        }
        scan(&|x, y| {
            rows.get(y).and_then(|row| row.get(x)).is_none_or(|text| *text != text_is_dark)
        })
    }

    /// What GStreamer's bar code reader makes of modules, each light or not, on a light ground.
    fn scan(is_light: &dyn Fn(usize, usize) -> bool) -> String {
        gst::init().expect("GStreamer starts");
        const MARGIN: usize = 4;
        const SCALE: usize = 8;
        const SIDE: usize = 96 * SCALE;
        let module = |pixel: usize| (pixel / SCALE).checked_sub(MARGIN);
        let light = |at: usize| match (module(at % SIDE), module(at / SIDE)) {
            (Some(x), Some(y)) => is_light(x, y),
            _ => true,
        };
        let mut picture: Vec<u8> =
            (0..SIDE * SIDE).map(|at| if light(at) { 255 } else { 0 }).collect();
        // No colour, in I420.
        picture.resize(SIDE * SIDE * 3 / 2, 128);
        let words = format!(
            "appsrc name=screen format=time caps=video/x-raw,format=I420,width={SIDE},height={SIDE},framerate=1/1 \
             ! zbar cache=false ! fakesink"
        );
        let pipeline =
            gst::parse::launch(&words).expect("the Debian package gstreamer1.0-plugins-bad");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("several elements");
        let screen = pipeline.by_name("screen").and_downcast::<gstreamer_app::AppSrc>();
        let screen = screen.expect("it has that name");
        pipeline.set_state(gst::State::Playing).expect("it plays");
        screen.push_buffer(gst::Buffer::from_mut_slice(picture)).expect("it takes one");
        screen.end_of_stream().expect("it takes the end");
        let bus = pipeline.bus().expect("every pipeline has one");
        let wanted = [gst::MessageType::Element, gst::MessageType::Eos, gst::MessageType::Error];
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(20), &wanted);
        pipeline.set_state(gst::State::Null).expect("it stops");
        let symbol = message.as_ref().and_then(|message| message.structure()?.get("symbol").ok());
        symbol.unwrap_or_else(|| panic!("nothing was read: {message:?}"))
    }

    #[test]
    fn the_code_reads_as_the_link_with_and_without_colours() {
        let config = Config::default();
        for colours in [true, false] {
            let screen = text(&config, LINK, colours);
            assert_eq!(read(&screen, colours), LINK);
            assert_eq!(screen.contains('\x1b'), colours, "{screen}");
            let widest =
                screen.lines().filter(|line| line.contains('▀')).map(|l| l.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest < 80), "{widest:?}");
        }
    }

    #[test]
    fn what_to_do_next_depends_on_who_can_come() {
        let elsewhere = Config { rendezvous: vec!["r.example:3478".into()], ..Config::default() };
        let library = Config { library: Some("/films".into()), ..elsewhere.clone() };
        let minted = Config { links_only: true, ..Config::default() };
        let watch = format!("punchcast-viewer watch '{LINK}'");
        for (config, wanted, unwanted) in [
            (Config::default(), vec!["on this network", &*watch, ELSEWHERE], "anywhere"),
            (elsewhere, vec!["anywhere", &*watch], ELSEWHERE),
            (library, vec!["punchcast-viewer list '"], "watch"),
            (minted, vec!["link new"], LINK),
        ] {
            let screen = text(&config, LINK, false);
            for wanted in wanted {
                assert!(screen.contains(wanted), "'{wanted}' is not in {screen}");
            }
            assert!(!screen.contains(unwanted), "'{unwanted}' is in {screen}");
        }
    }
}
