//! A real picture through two real firewalls: the whole chain, over real kernel NAT.

use std::time::Duration;

use protocol::demux::{Class, classify};
use protocol::seal::{Epoch, MasterKey, Opener};
use protocol::{srtcp, volley};
use tests::clip::{self, SAME_PICTURE};
use tests::lab::{Result, eventually, pcap};
use tests::stage::{self, Stage, count};
use tests::traffic;

const SECONDS: u64 = 12;

#[test]
fn a_clip_reaches_three_viewers_behind_three_routers_whole_and_sealed() -> Result<()> {
    let stage = Stage::new(3)?;
    let _rendezvous = stage.start_rendezvous()?;
    let at_rendezvous = stage.rendezvous.capture()?;
    let at_cam = stage.cam.capture()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;

    let names = ["a.mkv", "b.mp4", "c.mkv"];
    let recordings = names.map(|name| stage.path(name));
    let mut watching = Vec::new();
    for (at, path) in recordings.iter().enumerate() {
        let record = format!("record:{}", path.display());
        let duration = format!("{SECONDS}s");
        watching.push(stage.watch(
            at,
            &broadcast.link,
            &["--output", &record, "--for", &duration],
        )?);
    }
    for viewer in &watching {
        let status = viewer.process.wait(Duration::from_secs(SECONDS + 20))?;
        assert!(status.success(), "{status}");
        let last = viewer.latest();
        assert_eq!(last["path"], "reflexive", "{last}");
        assert_eq!(last["state"], "ended", "{last}");
        assert_eq!(count(&last, "packets_unrecovered"), 0, "{last}");
    }

    // The broadcaster was told that they left: it need not find out by their silence.
    let all_left = || stage.metric("punchcast_viewers").is_ok_and(|viewers| viewers == 0.0);
    assert!(eventually(Duration::from_secs(2), all_left));

    let sent = clip::frames(&stage::clip());
    assert_eq!(sent.len(), 132);
    for path in &recordings {
        let recorded = clip::frames(path);
        // The joining burst makes up for the time that joining takes.
        let least = (SECONDS as usize - 2) * 25;
        assert!(recorded.len() >= least, "{}: {} frames", path.display(), recorded.len());
        let (begin, worst) = clip::compare_looped(&recorded, &sent);
        println!("{}: {} frames from {begin}, worst {worst} dB", path.display(), recorded.len());
        assert!(worst > SAME_PICTURE, "{}: {worst} dB", path.display());
        let video = clip::longest_gap(&clip::times(path, "v:0"));
        assert!(video < 0.045, "{}: {video} s between two frames", path.display());
        let sound = clip::times(path, "a:0");
        // 21.3 ms a piece; at the seam of the loop a piece less or part of one is missing.
        let gap = clip::longest_gap(&sound);
        assert!(gap < 0.045, "{}: {gap} s without sound", path.display());
        assert!(sound.len() > (SECONDS as usize - 2) * 40, "{} pieces of sound", sound.len());
    }

    let through_rendezvous = at_rendezvous.stop()?;
    assert!(!through_rendezvous.is_empty());
    let is_media = |datagram: &&pcap::Datagram| classify(&datagram.payload) == Class::Media;
    assert_eq!(through_rendezvous.iter().filter(is_media).count(), 0, "media at the rendezvous");
    let bytes: usize = through_rendezvous.iter().map(|datagram| datagram.payload.len()).sum();
    assert!(bytes < 200_000, "{bytes} bytes at the rendezvous");

    the_key_opens_and_nothing_else_does(&at_cam.stop()?, &broadcast.folder.join("keys"));
    Ok(())
}

fn the_key_opens_and_nothing_else_does(captured: &[pcap::Datagram], key_log: &std::path::Path) {
    let log = std::fs::read_to_string(key_log).expect("the broadcaster wrote its key log");
    let tracks: Vec<(u32, [u8; 28])> = log
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let ssrc = words.next().expect("SSRC");
            let key = words.nth(1).expect("key");
            let bytes: Vec<u8> = (0..28)
                .map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).expect("hexadecimal"))
                .collect();
            (u32::from_str_radix(ssrc, 16).expect("hexadecimal"), bytes.try_into().expect("28"))
        })
        .collect();
    assert_eq!(tracks.len(), 2);
    let opener = |change: u8| {
        let (_, key) = tracks[0];
        let mut master: [u8; 16] = key[..16].try_into().expect("16 bytes");
        master[0] ^= change;
        let salt = key[16..].try_into().expect("12 bytes");
        let mut opener = Opener::new(tracks.iter().map(|(ssrc, _)| (*ssrc, 0)));
        opener.add_key(&MasterKey::from_parts(Epoch::FIRST, master, salt));
        opener
    };
    let media = captured.iter().filter(|datagram| classify(&datagram.payload) == Class::Media);
    let (mut right, mut wrong) = (opener(0), opener(1));
    let (mut opened, mut opened_wrong, mut all) = (0, 0, 0);
    // Feedback is sealed under keys of the viewers' own.
    for datagram in media.filter(|datagram| srtcp::sender(&datagram.payload).is_none()) {
        let mut payload = traffic::untagged(&datagram.payload);
        for packet in volley::packets(&mut payload) {
            all += 1;
            opened += usize::from(right.open(&mut packet.to_vec()).is_ok());
            opened_wrong += usize::from(wrong.open(packet).is_ok());
        }
    }
    assert!(all > 3000, "{all} media packets captured");
    assert_eq!((opened, opened_wrong), (all, 0));
}
