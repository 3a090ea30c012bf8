//! The tables of docs/nat.md, from records.

use std::fmt::Write;

use super::expect::Expect;
use super::kind::Kind;
use super::record::{Profile, Record};

/// Tries of a pair of kinds.
struct Cell<'a> {
    expect: Expect,
    records: Vec<&'a Record>,
}

impl<'a> Cell<'a> {
    fn of(records: &'a [Record], profile: Profile, broadcaster: &Kind, viewer: &Kind) -> Self {
        let is_ours = |record: &&Record| {
            record.profile == profile
                && record.broadcaster == broadcaster.name
                && record.viewer == viewer.name
        };
        let expect = Expect::of(broadcaster, viewer);
        Self { expect, records: records.iter().filter(is_ours).collect() }
    }

    fn share(&self, wanted: impl Fn(&Record) -> bool) -> f64 {
        let count = self.records.iter().filter(|record| wanted(record)).count();
        count as f64 / self.records.len().max(1) as f64
    }

    fn times(&self, time: impl Fn(&Record) -> Option<f64>) -> Times {
        Times::of(self.records.iter().filter_map(|record| time(record)).collect())
    }

    /// Shares in percent: `100` direct, `97+3` direct and relayed, `0+100` relayed.
    fn shares(&self) -> String {
        if self.records.is_empty() {
            return String::new();
        }
        if self.records.iter().all(|record| record.open_ms.is_none()) {
            return "–".into();
        }
        let direct = self.share(Record::is_direct);
        let relayed = self.share(|record| !record.is_direct() && record.is_relayed_in_time());
        let text = match relayed {
            0.0 => percent(direct),
            _ => format!("{}+{}", percent(direct), percent(relayed)),
        };
        match self.is_as_asked() {
            true => text,
            false => format!("**{text}**"),
        }
    }

    fn is_as_asked(&self) -> bool {
        let profile = self.records.first().map_or(Profile::Quiet, |record| record.profile);
        let direct = self.share(Record::is_direct);
        let allowed = self.share(|record| self.expect.allows(record));
        allowed == 1.0 && direct + 1e-9 >= self.expect.direct_share(profile)
    }
}

/// Percentiles, in milliseconds.
struct Times(Vec<f64>);

impl Times {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The nearest rank.
    fn at(&self, share: f64) -> Option<f64> {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied()
    }

    fn text(&self) -> String {
        match (self.at(0.5), self.at(0.95)) {
            (Some(median), Some(p95)) => format!("{median:.0}/{p95:.0}"),
            _ => String::new(),
        }
    }
}

fn percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Everything that docs/nat.md shows between its markers, as Markdown.
pub fn tables(records: &[Record], heading: &str) -> String {
    let mut text = format!("{heading}\n");
    grid(
        &mut text,
        "Tries that ended with a direct path within 10 s, in percent; after a plus sign those that \
         were relayed within 2 s and stayed so; – is no path. In bold what is below what is asked. A \
         broadcaster whose UDP is blocked reaches no rendezvous, and has no column.",
        &|viewer, broadcaster| Cell::of(records, Profile::Quiet, broadcaster, viewer).shares(),
    );
    grid(
        &mut text,
        "Milliseconds from introduction to the viewer's first path, direct or relayed: median/p95.",
        &|viewer, broadcaster| {
            let cell = Cell::of(records, Profile::Quiet, broadcaster, viewer);
            cell.times(|record| record.open_ms).text()
        },
    );
    guessed(&mut text, records);
    proved(&mut text, records);
    below(&mut text, records);
    text
}

/// One row for each viewer's kind, one column for each broadcaster's.
fn grid(text: &mut String, title: &str, cell: &dyn Fn(&Kind, &Kind) -> String) {
    let _ = write!(text, "\n{title}\n\n| viewer ↓ broadcaster → |");
    for kind in Kind::broadcasters() {
        let _ = write!(text, " {} |", kind.title);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(Kind::broadcasters().count()));
    for viewer in Kind::all() {
        let _ = write!(text, "| **{}** |", viewer.title);
        for broadcaster in Kind::broadcasters() {
            let _ = write!(text, " {} |", cell(viewer, broadcaster));
        }
        text.push('\n');
    }
}

fn pairs() -> impl Iterator<Item = (&'static Kind, &'static Kind)> {
    Kind::broadcasters().flat_map(|b| Kind::all().iter().map(move |v| (b, v)))
}

/// Pairs where a direct path takes a guess or a search, and those with other users of the NAT.
fn guessed(text: &mut String, records: &[Record]) {
    let _ = write!(
        text,
        "\nWhere ports are predicted or searched: relayed meanwhile, and milliseconds from introduction to \
         the direct path.\n\n\
         | broadcaster | viewer | network | tries | direct, % | a path within 2 s, % | direct path, median/p95 |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for profile in [Profile::Quiet, Profile::Competing] {
        for (broadcaster, viewer) in pairs() {
            let cell = Cell::of(records, profile, broadcaster, viewer);
            if cell.records.is_empty() || !cell.expect.may_improve() {
                continue;
            }
            let network = match profile {
                Profile::Competing => "20 flows/s",
                _ => "quiet",
            };
            let any = |record: &Record| record.open_ms.is_some_and(|ms| ms <= 2000.0);
            let _ = writeln!(
                text,
                "| {} | {} | {network} | {} | {} | {} | {} |",
                broadcaster.title,
                viewer.title,
                cell.records.len(),
                percent(cell.share(Record::is_direct)),
                percent(cell.share(any)),
                cell.times(|record| record.direct_ms).text(),
            );
        }
    }
}

/// The broadcaster's time from introduction to proof, endpoint-independent mappings on both sides.
fn proved(text: &mut String, records: &[Record]) {
    let _ = write!(
        text,
        "\nMilliseconds from the introduction's arrival at the broadcaster to a path proved there, \
         endpoint-independent mappings on both sides, 40 ms round trip. Routers that take ports are left \
         out, as one side was held back for them.\n\n\
         | network | tries | within 5 s, % | median | p95 | longest |\n|---|---|---|---|---|---|\n"
    );
    for (profile, name) in [
        (Profile::Quiet, "no loss"),
        (Profile::Loss5, "5% loss on both links"),
        (Profile::Loss20, "20% loss on both links"),
    ] {
        let is_plain = |record: &&Record| {
            let kinds = [&record.broadcaster, &record.viewer].map(|name| Kind::named(name));
            record.profile == profile
                && record.skew_ms == 0
                && kinds.iter().flatten().all(|kind| {
                    !(kind.is_random()
                        || kind.is_sequential()
                        || kind.is_blocked()
                        || kind.takes_ports())
                })
        };
        let plain: Vec<&Record> = records.iter().filter(is_plain).collect();
        if plain.is_empty() {
            continue;
        }
        let times = Times::of(plain.iter().filter_map(|record| record.proved_ms).collect());
        let in_time = times.0.iter().filter(|ms| **ms <= 5000.0).count();
        let show = |share| times.at(share).map_or("–".into(), |ms| format!("{ms:.1}"));
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} |",
            plain.len(),
            percent(in_time as f64 / plain.len() as f64),
            show(0.5),
            show(0.95),
            show(1.0),
        );
    }
}

/// What is below what is asked.
fn below(text: &mut String, records: &[Record]) {
    let mut lines = String::new();
    for profile in [Profile::Quiet, Profile::Competing] {
        for (broadcaster, viewer) in pairs() {
            let cell = Cell::of(records, profile, broadcaster, viewer);
            if !cell.records.is_empty() && !cell.is_as_asked() {
                let _ = writeln!(
                    lines,
                    "- {} broadcaster, {} viewer, {profile:?}: {:?} is asked, {} of {} tries direct, {} with no path",
                    broadcaster.title,
                    viewer.title,
                    cell.expect,
                    cell.records.iter().filter(|record| record.is_direct()).count(),
                    cell.records.len(),
                    cell.records.iter().filter(|record| record.open_ms.is_none()).count(),
                );
            }
        }
    }
    match lines.is_empty() {
        true => text.push_str("\nNo pair is below what is asked.\n"),
        false => {
            let _ = write!(text, "\nBelow what is asked:\n\n{lines}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times = Times::of((1..=20).map(f64::from).collect());
        assert_eq!(
            (times.at(0.5), times.at(0.95), times.at(1.0)),
            (Some(10.0), Some(19.0), Some(20.0))
        );
        assert_eq!(Times::of(Vec::new()).at(0.5), None);
    }
}
