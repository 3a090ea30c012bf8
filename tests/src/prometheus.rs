//! Debian's Prometheus in the lab: scrapes real programs, evaluates the rules that the repository has, and
//! answers queries.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Host, Process, Result, eventually};

/// Where it listens, on the loopback of the host that it runs on.
pub const ADDRESS: &str = "127.0.0.1:9090";

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    host: Host,
    process: Process,
}

/// One series of an answer: its labels, and its value.
pub type Series = (BTreeMap<String, String>, f64);

/// A folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

impl Prometheus {
    /// Starts one on this host that scrapes these targets as grafana/prometheus.yaml does, as one job, and waits until it
    /// answers. Its files go to the folder.
    pub fn start(host: &Host, folder: &Path, targets: &[String]) -> Result<Self> {
        let config = folder.join("prometheus.yaml");
        let targets: String =
            targets.iter().map(|target| format!("\n          - {target}")).collect();
        let rules = repository().join("grafana/alerts.yaml");
        let text = format!(
            "global: {{scrape_interval: 5s, evaluation_interval: 5s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n  - job_name: punchcast\n    static_configs:\n      - targets:{targets}\n",
            rules.display()
        );
        fs::write(&config, text).expect("the lab's folder can be written");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address={ADDRESS}"));
        let process = host.spawn("prometheus", &command)?;
        let prometheus = Self { host: host.clone(), process };
        let answers = eventually(START, || prometheus.get("/-/ready", &[]).is_ok());
        assert!(answers, "Prometheus does not start: {}", prometheus.process.stderr().text());
        Ok(prometheus)
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--get"]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        self.host.run(curl.arg(format!("http://{ADDRESS}{path}")))
    }

    /// What a query says now.
    ///
    /// # Panics
    ///
    /// Where it is refused.
    pub fn query(&self, expression: &str) -> Vec<Series> {
        let answer = self.get("/api/v1/query", &[("query", expression)]);
        let answer = answer.unwrap_or_else(|error| panic!("{expression}: {error}"));
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let data = &answer["data"];
        let value = |value: &Value| value[1].as_str().and_then(|text| text.parse().ok());
        if data["resultType"] == "scalar" {
            return value(&data["result"])
                .map(|value| (BTreeMap::new(), value))
                .into_iter()
                .collect();
        }
        let series = data["result"].as_array().expect("a vector").iter();
        series
            .map(|series| {
                let labels = serde_json::from_value(series["metric"].clone()).expect("labels");
                (labels, value(&series["value"]).expect("a number"))
            })
            .collect()
    }

    /// The value of a query that has one.
    pub fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression).first().map(|(_, value)| *value)
    }

    /// Alerts that fire: their names, and the viewer that they are about.
    pub fn firing(&self) -> Vec<(String, Option<String>)> {
        let firing = self.query("ALERTS{alertstate=\"firing\"}");
        let name = |(mut labels, _): Series| {
            (labels.remove("alertname").expect("alerts have names"), labels.remove("viewer"))
        };
        firing.into_iter().map(name).collect()
    }

    /// Rules that cannot be evaluated, with the reason.
    pub fn broken_rules(&self) -> Vec<String> {
        let answer = self.get("/api/v1/rules", &[]).expect("it answers");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let groups = answer["data"]["groups"].as_array().expect("groups").clone();
        assert!(!groups.is_empty(), "no rules were loaded");
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
        rules.filter(|rule| rule["health"] != "ok").map(ToString::to_string).collect()
    }
}

/// Queries of all panels of all dashboards, with this viewer chosen: dashboard and panel, expression, and
/// whether the panel says what no data means.
pub fn panel_queries(viewer: &str) -> Vec<(String, String, bool)> {
    let script = repository().join("scripts/plot-dashboards.py");
    let mut command = Command::new("python3");
    command.arg(script).args(["--list-queries", "--viewer", viewer]);
    let output = command.output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let queries: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    queries
        .iter()
        .map(|query| {
            let place = format!("{}: {}", text(&query["dashboard"]), text(&query["panel"]));
            (place, text(&query["expr"]), query["may_be_empty"] == true)
        })
        .collect()
}
