//! What the `.deb` packages are made from: files that are there, and packages that bring what the programs need.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gstreamer::ElementFactory;
use gstreamer::prelude::*;
use serde_json::Value;

const CRATES: [&str; 3] = ["broadcaster", "viewer", "rendezvous"];

/// Elements of these need nothing but GStreamer's own library, which each program is linked with.
const CORE: &str = "libgstreamer1.0-0";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What the `Cargo.toml` of a crate says of its package.
fn metadata(of: &str) -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let told = cargo.current_dir(repository()).output().expect("cargo starts");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let crates = told["packages"].as_array().expect("packages");
    let found = crates.iter().find(|package| package["name"] == of).expect("a crate");
    found["metadata"]["deb"].clone()
}

/// The text of a file that a path from a crate's folder names.
fn file(of: &str, path: &str) -> String {
    let path = repository().join(of).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn packages_are_made_of_files_that_are_there() {
    for of in CRATES {
        let package = metadata(of);
        let name = format!("punchcast-{of}");
        assert_eq!(package["name"], name);
        let changelog = file(of, text(&package["changelog"]));
        let version = env!("CARGO_PKG_VERSION");
        assert!(changelog.starts_with(&format!("punchcast ({version}-1) ")), "{changelog}");
        file(of, text(&package["license-file"][0]));
        let mut goals = Vec::new();
        for asset in package["assets"].as_array().expect("assets") {
            let (source, goal, mode) = (text(&asset[0]), text(&asset[1]), text(&asset[2]));
            goals.push(goal.to_owned());
            if source == format!("target/release/{name}") {
                assert_eq!((goal, mode), ("usr/bin/", "755"));
            } else if let Some(made) = source.strip_prefix("../target/packages/") {
                // By scripts/deb.sh, whose packages scripts/check-deb.sh tries.
                assert!(made.starts_with(&format!("{name}/")), "{made}");
            } else {
                let settings = file(of, source);
                let secret = goal.starts_with("etc/");
                assert_eq!(mode, if secret { "600" } else { "644" }, "{source}");
                assert!(!settings.is_empty(), "{source}");
            }
        }
        let has = |goal: &str| goals.iter().any(|other| other == goal);
        for goal in ["usr/bin/", "usr/share/man/man1/", "usr/share/zsh/vendor-completions/"] {
            assert!(has(goal), "{name} has nothing for {goal}");
        }
        // A unit for itself comes by its name; nothing is started that nobody has asked for.
        let units = &package["systemd-units"];
        if units.is_null() {
            assert!(has("usr/lib/systemd/system/"), "{name} has no unit");
        } else {
            file(of, &format!("{}/{}.service", text(&units["unit-scripts"]), units_name(units)));
            assert_eq!((&units["enable"], &units["start"]), (&false.into(), &false.into()));
        }
    }
}

fn units_name(units: &Value) -> &str {
    text(&units["unit-name"])
}

/// What is between quotation marks in the sources of a program, word for word: names of elements, and much else.
fn words_in_code(of: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut folders = vec![repository().join(of).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder") {
            let path = entry.expect("an entry").path();
            // Tests may name what users do not need.
            if path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let quoted = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let quoted = quoted.flat_map(|line| line.split('"').skip(1).step_by(2));
            words.extend(quoted.flat_map(str::split_whitespace).map(ToOwned::to_owned));
        }
    }
    words
}

/// The Debian package of each plugin's file, by the file's name.
fn packages_of_plugins() -> HashMap<String, String> {
    let told = Command::new("dpkg-query").args(["--search", "*/gstreamer-1.0/*.so"]).output();
    let told = String::from_utf8(told.expect("dpkg-query starts").stdout).expect("text");
    let package = |line: &str| {
        let (package, path) = line.split_once(": ")?;
        Some((path.rsplit('/').next()?.to_owned(), package.split(':').next()?.to_owned()))
    };
    told.lines().filter_map(package).collect()
}

/// Elements that are not on this machine cannot be asked for their package; those of `make test` are all that have no
/// device of their own.
#[test]
fn each_element_comes_with_a_package_that_is_named() {
    gstreamer::init().expect("GStreamer");
    let packages = packages_of_plugins();
    for (of, known) in [("broadcaster", "x264enc"), ("viewer", "avdec_h264")] {
        let package = metadata(of);
        let named: BTreeSet<String> = ["depends", "recommends", "suggests"]
            .iter()
            .flat_map(|list| text(&package[*list]).split(", ").map(ToOwned::to_owned))
            .collect();
        let mut found = Vec::new();
        for word in words_in_code(of) {
            let Some(factory) = ElementFactory::find(&word) else { continue };
            // What is not Debian's is of the program itself.
            let file = factory.plugin().and_then(|plugin| plugin.filename());
            let name = file.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
            let Some(from) = name.and_then(|name| packages.get(name)) else { continue };
            assert!(
                from == CORE || named.contains(from),
                "{word} of punchcast-{of} comes with {from}, which its package does not name"
            );
            found.push(word);
        }
        assert!(found.iter().any(|word| word == known), "only {found:?} are found");
        println!("{of}: {}", found.join(" "));
    }
}
