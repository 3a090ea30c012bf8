//! Links, as people paste them.

use punchcast_protocol::link::{Link, Target};

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
            assert!(!link.host.is_empty() && link.port != 0);
            match &link.target {
                Target::Channel(name) => assert!(!name.is_empty() && !name.contains('/')),
                Target::File(path) => assert!(!path.is_empty()),
            }
            let printed = link.to_string();
            assert!(!printed.contains(char::is_control), "{printed:?}");
            assert_eq!(printed.parse::<Link>().as_ref(), Ok(&link), "{printed}");
        }
        Err(error) => {
            // One line for the user, without the secret.
            let shown = error.to_string();
            if let Some((_, secret)) = text.split_once('#').filter(|(_, secret)| secret.len() > 8) {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }
}
