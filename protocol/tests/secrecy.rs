//! Nothing secret is printed, whatever is logged: keys and secrets are made of bytes that are known again
//! in any usual form.

use std::fmt::Debug;
use std::time::Instant;

use punchcast_protocol::address::Policy;
use punchcast_protocol::behaviour::Behaviour;
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::control::{Admission, Notice, Request, Response};
use punchcast_protocol::link::Secret;
use punchcast_protocol::opening::{Agent, Config, Credentials, IntroductionId, Role, Setup};
use punchcast_protocol::seal::{Epoch, MasterKey};
use punchcast_protocol::signalling::{
    FromRendezvous, Introduction, Party, RelayOffer, RelayServer, ToRendezvous, Token,
};
use punchcast_protocol::srtcp::{self, FeedbackKey};
use punchcast_protocol::tag::TagKey;
use rand::SeedableRng;
use rand::rngs::StdRng;
use zeroize::Zeroizing;

/// 0xab, sixteen times.
const BYTES: [u8; 16] = [0xab; 16];
const SALT: [u8; 12] = [0xab; 12];
const TEXT: &str = "hush-hush-hush-hush";

fn hides(what: impl Debug) {
    for text in [format!("{what:?}"), format!("{what:#?}")] {
        let text: String = text.split_whitespace().collect();
        for shown in ["abab", "ABAB", "171,171", "q6ur", "0xab,0xab", "hush", "104,117,115,104"] {
            assert!(!text.contains(shown), "{text}");
        }
    }
}

#[test]
fn keys_are_not_printed() {
    let key = MasterKey::from_parts(Epoch::FIRST, BYTES, SALT);
    let feedback = FeedbackKey::from_parts(BYTES, SALT);
    hides(srtcp::Sealer::new(&feedback, 1));
    hides(srtcp::Opener::new(&feedback, 1));
    hides(TagKey::new(&Zeroizing::new(BYTES)));
    hides(&key);
    hides(&feedback);
}

#[test]
fn what_viewer_and_broadcaster_say_is_logged_without_secrets() {
    let key = || MasterKey::from_parts(Epoch::FIRST, BYTES, SALT);
    let secret = || Secret::new(TEXT.as_bytes().to_vec());
    let admission = Admission {
        viewer: 1,
        tracks: Vec::new(),
        keys: vec![key()],
        capture_now_us: 0,
        send_lag_us: 0,
        viewer_tag: 8,
        feedback_key: FeedbackKey::from_parts(BYTES, SALT),
    };
    hides(Response::Admitted { admission });
    hides(Notice::Key { key: key() });
    let requests = [
        Request::Watch { channel: "live".into(), secret: secret(), latency_ms: 200 },
        Request::List { secret: secret() },
        Request::Files { secret: secret(), after: None },
        Request::Play {
            path: "a.mp4".into(),
            secret: secret(),
            latency_ms: 200,
            position_us: 0,
            rate_percent: 100,
            sound: 0,
            pace_bps: None,
        },
        Request::Fetch { path: "a.mp4".into(), secret: secret(), offset: 0, digest: None },
        Request::Thumbnail { path: "a.mp4".into(), secret: secret() },
    ];
    for request in requests {
        // What asks to come in shows its secret to the door alone.
        assert_eq!(request.shown(), Some(secret().as_ref()), "{request:?}");
        hides(request);
    }
    for request in [Request::Clock, Request::Pause { ssrc: 1 }] {
        assert_eq!(request.shown(), None, "{request:?}");
    }
}

#[test]
fn what_the_rendezvous_hears_and_says_is_logged_without_secrets() {
    let at = "192.0.2.1:9".parse().expect("an address");
    let candidate = Candidate::new(at, CandidateKind::Reflexive);
    let party = || Party { candidates: vec![candidate], behaviour: Behaviour::default() };
    let introduction = Introduction {
        id: IntroductionId([3; 8]),
        secret: Some(BYTES),
        peer: party(),
        peer_observed: candidate,
        observed: candidate,
        relay: Some(RelayOffer {
            server: RelayServer::SameHost { port: 3480 },
            username: "1:viewer".into(),
            password: TEXT.into(),
        }),
    };
    let message = FromRendezvous::Introduction { introduction };
    assert!(format!("{message:?}").contains("192.0.2.1:9"), "what helps to find a fault is there");
    hides(message);
    hides(ToRendezvous::Register { party: party(), token: Token::new(TEXT) });
    let setup = Setup {
        role: Role::Viewer,
        credentials: Credentials { id: IntroductionId([3; 8]), secret: BYTES },
        local: Vec::new(),
        remote: vec![candidate],
        seen: None,
        holds: false,
        hop_limit: None,
        policy: Policy::default(),
        config: Config::for_role(Role::Viewer),
    };
    hides(Agent::new(setup, &mut StdRng::seed_from_u64(1), Instant::now()));
}
