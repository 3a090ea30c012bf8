//! Looks at a status page in a real browser, where it runs: `lab-browser URL VIEWERS FOLDER`.
//!
//! Waits until so many viewers are shown and one of them is marked as lossy, then prints what it sees as one
//! JSON object a line: `page` (what is shown, who is marked, where the Tab key leads, what has no name for
//! screen readers), then, once a viewer is gone, `gone` with the time in milliseconds since 1970, and at last
//! `heard` with all addresses asked for and all errors. Screenshots go to the folder.

use std::env;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::browser::Browser;

/// How long the page may take to show what is there, and how long a change is waited for.
const SHOWN: Duration = Duration::from_secs(40);
const CHANGE: Duration = Duration::from_secs(60);

/// Presses of the Tab key, at most, until everything was reached.
const MOST_TABS: usize = 60;

/// Names of roles that say nothing without a name of their own.
const NAMED: [&str; 7] = ["button", "link", "image", "img", "table", "heading", "columnheader"];

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let [_, url, viewers, folder] = &arguments[..] else {
        anyhow::bail!("usage: lab-browser URL VIEWERS FOLDER")
    };
    let folder = Path::new(folder);
    let viewers: usize = viewers.parse()?;
    let mut browser = Browser::start()?;
    browser.look((1280, 900), "light")?;
    browser.open(url)?;
    let rows = "document.querySelectorAll('tr[data-viewer]').length";
    browser.wait_for(
        SHOWN,
        &format!(
            "document.body.dataset.state === 'live' && {rows} === {viewers} && \
             document.querySelectorAll('tr[data-lossy=\"true\"]').length === 1"
        ),
    )?;
    let shown = browser.evaluate(
        "[...document.querySelectorAll('tr[data-viewer]')].map(row => ({
            viewer: row.dataset.viewer, lossy: row.dataset.lossy, state: row.dataset.state,
            text: row.innerText, plots: [...row.querySelectorAll('svg[role=img]')]
                .map(plot => plot.getAttribute('aria-label')) }))",
    )?;
    let verdict = browser.evaluate("document.getElementById('verdict').innerText")?;
    let events = browser.evaluate(
        "[...document.querySelectorAll('#events li')].map(event => event.dataset.event)",
    )?;
    for (name, size, scheme) in [
        ("desktop-light", (1280, 900), "light"),
        ("desktop-dark", (1280, 900), "dark"),
        ("phone-light", (375, 800), "light"),
        ("phone-dark", (375, 800), "dark"),
    ] {
        browser.look(size, scheme)?;
        let overflows =
            "document.documentElement.scrollWidth > document.documentElement.clientWidth";
        ensure!(browser.evaluate(overflows)? == false, "{name}: it scrolls sideways");
        browser.screenshot(&folder.join(format!("{name}.png")), false)?;
    }
    browser.look((1280, 900), "light")?;
    let reached = tab_through(&mut browser)?;
    let paused = pause_by_keyboard(&mut browser)?;
    let unnamed = without_name(&mut browser)?;
    println!(
        "{}",
        json!({ "page": {
            "viewers": shown, "verdict": verdict, "events": events, "reached": reached,
            "paused": paused, "unnamed": unnamed,
        }})
    );
    browser.wait_for(CHANGE, &format!("{rows} === {}", viewers - 1))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("after 1970")?;
    println!("{}", json!({ "gone": now.as_millis() as u64 }));
    let (requests, errors) = browser.heard();
    println!("{}", json!({ "heard": { "requests": requests, "errors": errors } }));
    Ok(())
}

/// What the Tab key leads to, until it comes around.
fn tab_through(browser: &mut Browser) -> Result<Vec<Value>> {
    browser.evaluate("document.activeElement.blur()")?;
    let mut reached: Vec<Value> = Vec::new();
    for _ in 0..MOST_TABS {
        browser.press("Tab", 9, "")?;
        let focused = browser.evaluate(
            "(() => { const at = document.activeElement; if (at === document.body) return null; \
              const ring = getComputedStyle(at); \
              return { what: at.id || at.getAttribute('href') || at.tagName, \
                       name: at.innerText || at.getAttribute('aria-label'), \
                       ring: ring.outlineStyle !== 'none' || ring.boxShadow !== 'none' }; })()",
        )?;
        if focused.is_null() || reached.contains(&focused) {
            break;
        }
        reached.push(focused);
    }
    Ok(reached)
}

/// Whether the page stops and goes on at the press of a key.
fn pause_by_keyboard(browser: &mut Browser) -> Result<bool> {
    browser.evaluate("document.getElementById('pause').focus()")?;
    browser.press("Enter", 13, "\r")?;
    browser.wait_for(SHOWN, "document.body.dataset.state === 'paused'")?;
    browser.press("Enter", 13, "\r")?;
    browser.wait_for(SHOWN, "document.body.dataset.state === 'live'")?;
    Ok(true)
}

/// What a screen reader would come to and could not name.
fn without_name(browser: &mut Browser) -> Result<Vec<Value>> {
    let tree = browser.call("Accessibility.getFullAXTree", json!({}))?;
    let nodes = tree["nodes"].as_array().context("a tree")?;
    let unnamed = nodes.iter().filter(|node| {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        let name = node["name"]["value"].as_str().unwrap_or_default();
        node["ignored"] != true && NAMED.contains(&role) && name.trim().is_empty()
    });
    Ok(unnamed.cloned().collect())
}
