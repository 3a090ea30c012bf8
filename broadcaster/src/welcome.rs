//! What people see who start a broadcaster at a terminal: the link as a QR code, and what to do next.
//! Standard output has the link alone; all this goes to standard error, and only where that is a terminal: a link may
//! hold a secret, which belongs into no log.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr};

use protocol::link::Link;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use service::log::LogFormat;

use crate::config::Config;

/// What helps where a link leads no further than this network.
const ELSEWHERE: &str = "Viewers elsewhere need a rendezvous with a public address: run punchcast-rendezvous on such a \
                         machine, and start this with --rendezvous HOST:3478.";

/// How far a link leads, by the hosts that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Machine,
    Network,
    Anywhere,
}

impl Reach {
    /// Any one of several rendezvous suffices. A name may lead anywhere.
    fn of(link: &Link) -> Self {
        let one = |(host, _): &(String, u16)| host.parse().map_or(Self::Anywhere, Self::of_address);
        link.servers.iter().map(one).max().unwrap_or(Self::Machine)
    }

    fn of_address(ip: IpAddr) -> Self {
        // RFC 6598: shared by the households of one provider.
        let is_shared = |ip: Ipv4Addr| ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
        let ip = ip.to_canonical();
        let is_near = match ip {
            IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || is_shared(ip),
            IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
        };
        match is_near {
            _ if ip.is_loopback() => Self::Machine,
            true => Self::Network,
            false => Self::Anywhere,
        }
    }
}

/// Shows a person at a terminal the links that were printed.
pub(crate) fn welcome(config: &Config, links: &[Link]) {
    if std::io::stderr().is_terminal() && config.log_format == LogFormat::Text {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        eprint!("{}", text(config, links, !is_plain));
    }
}

/// The whole text, of several lines. `colours` says whether the terminal is told any.
fn text(config: &Config, links: &[Link], colours: bool) -> String {
    if config.links_only && config.secret.is_none() {
        return "\nOnly links that you mint let viewers in: punchcast-broadcaster link new\n\
                Ctrl-C ends the broadcast.\n\n"
            .to_owned();
    }
    // All name the same hosts.
    let reach = links.first().map_or(Reach::Machine, Reach::of);
    let code = match links {
        [link] => QrCode::with_error_correction_level(link.to_string(), EcLevel::L).ok(),
        // Several would fill more than a screen, and each can be drawn by itself.
        _ => None,
    };
    // A link too long for any code is left to be copied.
    let code = code.map(|code| draw(&code, colours)).unwrap_or_default();
    let place = match reach {
        Reach::Machine => "on this machine",
        Reach::Network => "on this network",
        Reach::Anywhere => "anywhere",
    };
    let (verb, command) = match config.live_channels().is_empty() {
        true => ("See what there is", "list"),
        false => ("Watch", "watch"),
    };
    let watch = |link: &Link| format!("{verb} {place}: punchcast-viewer {command} '{link}'\n");
    let watch: String = links.iter().map(watch).collect();
    let further = if reach == Reach::Anywhere { String::new() } else { format!("{ELSEWHERE}\n") };
    format!("\n{code}\n{watch}{further}Ctrl-C ends the broadcast.\n\n")
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
    use crate::media::SourceSpec;

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
        let (config, link) = (Config::default(), LINK.parse().expect("a link"));
        for colours in [true, false] {
            let screen = text(&config, std::slice::from_ref(&link), colours);
            assert_eq!(read(&screen, colours), LINK);
            assert_eq!(screen.contains('\x1b'), colours, "{screen}");
            let widest =
                screen.lines().filter(|line| line.contains('▀')).map(|l| l.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest < 80), "{widest:?}");
        }
    }

    #[test]
    fn what_to_do_next_depends_on_who_can_come() {
        let at = |hosts: &str| LINK.replace("192.168.178.20:3478", hosts).parse().expect("a link");
        let watching = Config::default();
        let library = Config { source: SourceSpec::None, ..Config::default() };
        let minted = Config { links_only: true, ..Config::default() };
        let watch = "punchcast-viewer watch 'punchcast://";
        for (config, hosts, wanted, unwanted) in [
            (&watching, "192.168.178.20:3478", ["on this network", watch, ELSEWHERE], "anywhere"),
            (&watching, "127.0.0.1:3478", ["on this machine", watch, ELSEWHERE], "anywhere"),
            (&watching, "100.64.0.9:3478", ["on this network", watch, ELSEWHERE], "anywhere"),
            (&watching, "[fd00::1]:3478", ["on this network", watch, ELSEWHERE], "anywhere"),
            (&watching, "r.example:3478", ["anywhere", watch, "Ctrl-C"], ELSEWHERE),
            (&watching, "10.0.0.1:3478,[2a00::1]:3478", ["anywhere", watch, "Ctrl-C"], ELSEWHERE),
            (&library, "r.example:3478", ["anywhere", "viewer list '", "Ctrl-C"], "watch"),
            (&minted, "r.example:3478", ["mint", "link new", "Ctrl-C"], "punchcast://"),
        ] {
            let screen = text(config, &[at(hosts)], false);
            for wanted in wanted {
                assert!(screen.contains(wanted), "'{wanted}' is not in {screen}");
            }
            assert!(!screen.contains(unwanted), "'{unwanted}' is in {screen}");
        }
    }
}
