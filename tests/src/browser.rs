//! A real Chromium without a window, driven over the Chrome DevTools Protocol.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

/// How the program may be called.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// How long it may take to start on a busy machine, and to answer.
const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(30);

/// A running browser with one page. Dropping it ends it.
pub struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    next: u64,
    events: VecDeque<Value>,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// Where no Chromium is installed, or it does not start.
    pub fn start() -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut failure = None;
        let child = NAMES.iter().find_map(|name| {
            let started = Command::new(name)
                .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
                .args(["--disable-dev-shm-usage", "--disable-background-networking"])
                .args(["--disable-component-update", "--disable-sync", "--hide-scrollbars"])
                .arg("--remote-debugging-port=0")
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .arg("about:blank")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            started.map_err(|error| failure = Some(error)).ok()
        });
        let mut child = child.with_context(|| format!("no Chromium: {failure:?}"))?;
        match Self::connect(profile.path()) {
            Ok(socket) => {
                let events = VecDeque::new();
                let mut browser = Self { child, socket, next: 0, events, _profile: profile };
                for domain in ["Page", "Network", "Log", "Runtime", "Accessibility"] {
                    browser.call(&format!("{domain}.enable"), json!({}))?;
                }
                Ok(browser)
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn connect(profile: &Path) -> Result<WebSocket<TcpStream>> {
        let deadline = Instant::now() + START;
        let port_file = profile.join("DevToolsActivePort");
        let port: u16 = loop {
            let text = fs::read_to_string(&port_file).unwrap_or_default();
            // The second line is written last.
            if let (Some(port), Some(_)) = (text.lines().next(), text.lines().nth(1)) {
                break port.parse()?;
            }
            ensure!(Instant::now() < deadline, "Chromium does not start");
            std::thread::sleep(Duration::from_millis(20));
        };
        let page = loop {
            let targets: Vec<Value> = serde_json::from_str(&get(port, "/json/list")?)?;
            if let Some(page) = targets.into_iter().find(|target| target["type"] == "page") {
                break page;
            }
            ensure!(Instant::now() < deadline, "Chromium has no page");
            std::thread::sleep(Duration::from_millis(20));
        };
        let url = page["webSocketDebuggerUrl"].as_str().context("a page has an address")?;
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let (socket, _) =
            tungstenite::client(url, stream).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(socket)
    }

    /// Calls a method, and waits for its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let call = json!({ "id": id, "method": method, "params": parameters });
        self.socket.send(Message::text(call.to_string()))?;
        loop {
            let message = self.read()?;
            if message["id"] == id {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            if message["method"].is_string() {
                self.events.push_back(message);
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        loop {
            if let Message::Text(text) = self.socket.read()? {
                return Ok(serde_json::from_str(text.as_str())?);
            }
        }
    }

    /// What the page's script says of an expression.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let result = self.call("Runtime.evaluate", parameters)?;
        if let Some(exception) = result.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub fn wait_for(&mut self, timeout: Duration, expression: &str) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.evaluate(expression)? != true {
            ensure!(Instant::now() < deadline, "not within {timeout:?}: {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let result = self.call("Page.navigate", json!({ "url": url }))?;
        ensure!(result["errorText"].is_null(), "{url}: {}", result["errorText"]);
        Ok(())
    }

    /// The window's size, and whether it is light or dark.
    pub fn look(&mut self, (width, height): (u32, u32), scheme: &str) -> Result<()> {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        )?;
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }))?;
        Ok(())
    }

    /// Presses and releases a key.
    pub fn press(&mut self, key: &str, code: u32, text: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let parameters = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            });
            self.call("Input.dispatchKeyEvent", parameters)?;
        }
        Ok(())
    }

    /// Writes a picture of what is seen, or of the whole page.
    pub fn screenshot(&mut self, path: &Path, whole: bool) -> Result<()> {
        let result = self.call(
            "Page.captureScreenshot",
            json!({ "format": "png", "captureBeyondViewport": whole }),
        )?;
        let picture = result["data"].as_str().context("a picture")?;
        fs::write(path, BASE64_STANDARD.decode(picture)?)?;
        Ok(())
    }

    /// Addresses that were asked for so far, and what went wrong: words on the console above information,
    /// exceptions, and violations of the page's policy.
    pub fn heard(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut requests, mut errors) = (Vec::new(), Vec::new());
        for event in &self.events {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    requests.extend(parameters["request"]["url"].as_str().map(ToOwned::to_owned));
                }
                "Log.entryAdded" if parameters["entry"]["level"] != "info" => {
                    errors.push(parameters["entry"]["text"].to_string());
                }
                "Runtime.exceptionThrown" => {
                    errors.push(parameters["exceptionDetails"].to_string())
                }
                "Runtime.consoleAPICalled" if parameters["type"] != "log" => {
                    errors.push(parameters["args"].to_string());
                }
                _ => {}
            }
        }
        (requests, errors)
    }
}

/// One answer of the browser's own HTTP server.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "{path}: an answer without an end");
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(String::from_utf8(body)?)
}
