//! What the documentation says of metrics and events is what the code has, and commands of its pages work.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use prometheus::Registry;
use prometheus::proto::MetricFamily;
use test_camera::{Camera, Cameras};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `UPDATE_DOCS=1` writes the table anew.
#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let common: Vec<MetricFamily> = {
        let registry: Registry = service::metrics::registry("program");
        service::listener::ready_gauge(&registry);
        registry.gather()
    };
    let names: BTreeSet<_> = common.iter().map(|family| family.name().to_owned()).collect();
    let own = |families: Vec<MetricFamily>| -> String {
        let own = families.into_iter().filter(|family| !names.contains(family.name()));
        service::metrics::describe(&own.collect::<Vec<_>>())
    };
    let table = format!(
        "# Metrics\n\n\
         Made from the code by `UPDATE_DOCS=1 cargo test -p tests --test documentation`; a test fails where it \
         is not up to date.\nWhat the listener serves, and what to make of it, is told in \
         [grafana/](../grafana). Labels come from fixed sets, but for\n`version`, and `viewer`: a short number \
         that the broadcaster gives out, of which at most `metrics.viewer_series` (100) have series,\nthose \
         with the worst loss first.\n\n\
         ## All programs\n\n{}\n\
         ## Broadcaster\n\nWith an embedded rendezvous it has the rendezvous's metrics, too.\n\n{}\n\
         ## Rendezvous\n\n{}\n## Viewer\n\n`punchcast-viewer watch LINK --metrics ADDR:PORT`\n\n{}",
        service::metrics::describe(&common),
        own(broadcaster::described_metrics()),
        own(rendezvous::described_metrics()),
        own(viewer::described_metrics()),
    );
    let path = repository().join("docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &table).expect("written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == table, "docs/metrics.md is not up to date: UPDATE_DOCS=1 writes it anew");
}

/// Names in one column of tables: what is in code marks first in its row.
fn documented(text: &str) -> BTreeSet<String> {
    let first = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    text.lines().filter_map(first).collect()
}

/// Names of events in the sources of a program: those behind `event = `, and those of the list.
fn in_code(program: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![repository().join(program).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            let after = |mark: &str| -> Vec<String> {
                let parts = text.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
                parts.map(ToOwned::to_owned).collect()
            };
            names.extend(after("event = \""));
            if path.ends_with("broadcaster/src/events.rs") {
                let name = text.split("fn name(&self)").nth(1).expect("the list");
                let list = name.split("fn ").next().unwrap_or_default();
                names.extend(list.split('"').skip(1).step_by(2).map(ToOwned::to_owned));
            }
        }
    }
    names
}

#[test]
fn the_tables_of_events_are_those_of_the_code() {
    let text = fs::read_to_string(repository().join("docs/events.md")).expect("docs/events.md");
    for (heading, program) in [
        ("## Broadcaster", "broadcaster"),
        ("## Viewer", "viewer"),
        ("## Rendezvous", "rendezvous"),
    ] {
        let section = text.split(heading).nth(1).expect(heading).split("\n## ").next();
        let expected = documented(section.unwrap_or_default());
        assert!(!expected.is_empty(), "{heading}");
        assert_eq!(in_code(program), expected, "{heading}");
    }
}

/// As readers would follow them, each page in a network of its own, with a camera plugged in. `PROGRAMS=installed` takes
/// the programs that are on the path, as scripts/check-deb.sh does, in place of those built beside the test.
#[test]
fn the_commands_of_the_pages_work_as_written() {
    let pages = [
        "camera",
        "channels",
        "files",
        "ip-camera",
        "many-viewers",
        "monitoring",
        "obs",
        "rendezvous",
        "watching",
    ];
    let cameras = Cameras::new().expect("a folder");
    let modes = ["video/x-raw,format=I420,width=640,height=360,framerate=25/1"];
    let front = Camera::new("Front Camera", "/dev/video-front", &modes);
    cameras.plug(&[front]).expect("plugged in");
    let mut follow = std::process::Command::new("python3");
    cameras.show_to(&mut follow);
    follow.arg("scripts/run-docs.py");
    if std::env::var_os("PROGRAMS").is_none_or(|programs| programs != "installed") {
        let programs = tests::lab::binary("punchcast-broadcaster").expect("the programs are built");
        follow.arg("--programs").arg(programs.parent().expect("a folder"));
    }
    let ended = follow
        .args(pages.map(|page| format!("docs/{page}.md")))
        .current_dir(repository())
        .output()
        .expect("python3 starts");
    let said = [&ended.stdout[..], &ended.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(ended.status.success(), "{said}");
    println!("{said}");
}
