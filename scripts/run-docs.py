#!/usr/bin/env python3
"""Runs the commands of documentation pages, as written: every ```sh block, in order.

    scripts/run-docs.py [--programs FOLDER] PAGE...

Each page has a network of its own, which is loopback alone, and a home folder with a film, ~/Videos/holiday/day 1.mp4.
Readers use a terminal for each program that goes on; so a line that begins with punchcast-rendezvous or
punchcast-broadcaster (without a command such as `link`) goes on until a later line starts that program again, or the
section ends; it must then end with 0. What sends to a broadcaster (ffmpeg, gst-launch-1.0, tests/ip-camera.py) goes on
until the next sender starts, or the section ends. Any other line must end with 0 within half a minute.

What readers fill in is filled in: LINK with the link that the broadcaster printed,
punchcast://HOST:PORT/BROADCASTER-ID with its beginning, rendezvous.example and BROADCASTER with this machine, NUMBER
with a number from `viewers list`; film.mkv is half a minute of the film. Ends with 1, and with what was said, where a
command fails.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"
FILM = TESTS / "media/bigbuckbunny.mp4"
PATIENCE = 30
# What each program that goes on says once it can be used, and where.
READY = {
    "punchcast-rendezvous": [("err", "rendezvous listening on")],
    # One that waits for its source prints the link later.
    "punchcast-broadcaster": [("out", "punchcast://"), ("err", "waiting for a sender")],
    "ffmpeg": [],
    "gst-launch-1.0": [],
    "tests/ip-camera.py": [("out", "")],
}
PROGRAMS = ("punchcast-rendezvous", "punchcast-broadcaster")
COMMANDS = ("link", "viewers", "devices", "completions", "--help", "--version")


class Failed(Exception):
    """A command that did not do what the page says."""


class Page:
    """One page being followed."""

    def __init__(self, path, programs, film):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="docs-"))
        films = self.folder / "Videos/holiday"
        films.mkdir(parents=True)
        shutil.copy(film, films / "day 1.mp4")
        (self.folder / "tests").symlink_to(TESTS)
        self.environment = {
            "HOME": str(self.folder),
            "PATH": os.pathsep.join([str(programs)] * bool(programs) + [os.environ["PATH"]]),
            "NO_COLOR": "1",
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(pathlib.Path.home() / ".cache")),
        }
        # Where GStreamer finds what: a test plugs cameras in so.
        for name, value in os.environ.items():
            if name.startswith(("GST_", "PUNCHCAST_")):
                self.environment[name] = value
        self.text = path.read_text()
        self.running = {}
        if "film.mkv" in self.text:
            longer = ["ffmpeg", "-loglevel", "error", "-stream_loop", "6", "-i", str(film), "-c", "copy", "film.mkv"]
            subprocess.run(longer, cwd=self.folder, check=True)

    def follow(self):
        sections = [re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
                    for section in self.text.split("\n## ")]
        if not any(sections):
            raise Failed("no ```sh block is in it")
        try:
            for blocks in sections:
                for block in blocks:
                    for line in lines(block):
                        print(f"  $ {line}", flush=True)
                        self.run(line)
                for name in reversed(list(self.running)):
                    self.end(name)
        finally:
            for process, _ in self.running.values():
                process.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, line):
        words = line.split()
        if words[0] in READY and not any(word in COMMANDS for word in words[1:2]):
            self.begin(words[0], line)
            return
        shell = self.shell(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said, _ = shell.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            os.killpg(shell.pid, signal.SIGKILL)
            raise Failed(f"'{line}' takes longer than {PATIENCE} s") from error
        if shell.returncode:
            raise Failed(f"'{line}' ends with {shell.returncode}: {said}")

    def begin(self, name, line):
        for other in list(self.running):
            if other == name or not (other in PROGRAMS or name in PROGRAMS):
                self.end(other)
        logs = {stream: self.folder / f".{pathlib.Path(name).name}.{stream}" for stream in ("out", "err")}
        with open(logs["out"], "w") as out, open(logs["err"], "w") as err:
            process = self.shell(f"exec {line}", stdout=out, stderr=err)
        self.running[name] = (process, logs)
        deadline = time.monotonic() + PATIENCE
        while READY[name] and not any(said(logs[stream], words) for stream, words in READY[name]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"'{line}' does not get ready: {logs['err'].read_text()}")
            time.sleep(0.05)

    def end(self, name):
        if name not in self.running:
            return
        process, logs = self.running.pop(name)
        if process.poll() is None:
            process.terminate()
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            code = "no end"
        # A sender ends as it likes, also when its film does.
        if code and name in PROGRAMS:
            raise Failed(f"{name} ends with {code}: {logs['err'].read_text()}")

    def shell(self, line, **streams):
        words = ["bash", "-euo", "pipefail", "-c", self.filled_in(line)]
        return subprocess.Popen(
            words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, text=True,
            start_new_session=True, **streams)

    def filled_in(self, line):
        line = re.sub(r"rendezvous\.example|\bBROADCASTER\b(?!-)", "127.0.0.1", line)
        if "NUMBER" in line:
            line = line.replace("NUMBER", self.viewer())
        if re.search(r"\bLINK\b|punchcast://HOST", line):
            link = self.link()
            line = line.replace("punchcast://HOST:PORT/BROADCASTER-ID", "/".join(link.split("/")[:4]))
            line = re.sub(r"\bLINK\b", link.replace("\\", r"\\"), line)
        return line

    def link(self):
        """The link of the broadcaster that runs, once it has printed it."""
        process, logs = self.running["punchcast-broadcaster"]
        deadline = time.monotonic() + PATIENCE
        while not said(logs["out"], "punchcast://"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"no link: {logs['err'].read_text()}")
            time.sleep(0.05)
        return logs["out"].read_text().split("\n")[0]

    def viewer(self):
        """The number of one that watches, once one does."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            asked = self.shell("punchcast-broadcaster viewers list", stdout=subprocess.PIPE)
            number = re.search(r"^\s*(\d+)\b", asked.communicate()[0], re.MULTILINE)
            if number:
                return number[1]
            time.sleep(0.1)
        raise Failed("nobody watches")


def said(log, words):
    """Whether a log has whole lines, and the words."""
    text = log.read_text()
    return words in text and text.endswith("\n")


def lines(block):
    """The commands of a block: a line each, but for a document within (<<END) and a backslash at the end."""
    waiting, until = [], None
    for line in block.splitlines():
        waiting.append(line)
        if until:
            if line != until:
                continue
        elif found := re.search(r"<<'?(\w+)'?$", line):
            until = found[1]
            continue
        elif line.endswith("\\"):
            continue
        command, waiting, until = "\n".join(waiting).strip(), [], None
        if command and not command.startswith("#"):
            yield command


def main():
    parser = argparse.ArgumentParser(description="Runs the commands of documentation pages.")
    parser.add_argument("--programs", type=pathlib.Path, help="folder of the programs; else they are on PATH")
    parser.add_argument("--film", type=pathlib.Path, default=FILM)
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    asked = parser.parse_args()
    if os.environ.get("DOCS_ALONE") != "1":
        again = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv]
        os.environ["DOCS_ALONE"] = "1"
        os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--net", *again])
    for path in asked.pages:
        print(path, flush=True)
        try:
            Page(path, asked.programs and asked.programs.resolve(), asked.film).follow()
        except Failed as failed:
            sys.exit(f"{path}: {failed}")


if __name__ == "__main__":
    main()
