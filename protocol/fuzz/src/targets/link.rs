//! Links, as people paste them.

use punchcast_protocol::link::{Link, LinkError, Target};

/// An id that a fuzzer would hardly guess.
const ID: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

/// Reads text as a link, as the part behind the scheme, and as the part behind the id.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    one(&text);
    one(&format!("punchcast://{text}"));
    one(&format!("punchcast://host:1/{ID}/{text}"));
}

fn one(text: &str) {
    match text.parse::<Link>() {
        Ok(link) => {
            assert!(!link.servers.is_empty());
            assert!(link.servers.iter().all(|(host, port)| !host.is_empty() && *port != 0));
            match &link.target {
                Target::Channel(name) => assert!(!name.is_empty() && !name.contains('/')),
                Target::File(path) => assert!(!path.is_empty()),
            }
            let printed = link.to_string();
            assert!(!printed.contains(char::is_control), "{printed:?}");
            assert_eq!(printed.parse::<Link>().as_ref(), Ok(&link), "{printed}");
        }
        Err(error) => {
            // The secret decides nothing but whether it is one, and is never shown.
            let Some((front, _)) = text.split_once('#') else { return };
            let without = format!("{front}#").parse::<Link>();
            assert!(error == LinkError::Secret || without == Err(error));
        }
    }
}
