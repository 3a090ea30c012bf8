"""One viewer: what the broadcaster knows of it, and what its own process says."""

from .grafana import (BAD_LOSS, NOW, RANGE, READY, SELDOM, count, dashboard, graph, per_minute, quantiles,
                      query, rate, row, share, stat, states, variable)
from .process import process

# `@`: the viewer at its broadcaster. `@all`: that broadcaster. `@process`: a viewer's own process.
SELECTORS = {
    "": 'job=~"$job",instance=~"$instance",viewer=~"$viewer"',
    "all": 'job=~"$job",instance=~"$instance"',
    "process": 'job=~"$job",instance=~"$process"',
}

VARIABLES = [
    variable("job", "Job", "label_values(punchcast_build_info, job)"),
    variable("instance", "Broadcaster", 'label_values(punchcast_viewer_info{job=~"$job"}, instance)'),
    variable("viewer", "Viewer", 'label_values(punchcast_viewer_info{job=~"$job",instance=~"$instance"}, viewer)',
             several=False, sort=3),
    variable("process", "Viewer's own process",
             'label_values(punchcast_build_info{job=~"$job",program="viewer"}, instance)'),
]

REPORTED = "punchcast_viewer_reported_packets_total"
GONE = "no report"
NO_PROCESS = "no viewer with --metrics"


def beside_all(metric, histogram, name):
    """The viewer, and the median of all viewers of its broadcaster."""
    return [query(f"max by (viewer) ({metric}@)", name),
            *quantiles(f"{histogram}@all", [("median of all viewers", 0.5)])]


NOW_ROW = [
    row("How is viewer $viewer?"),
    stat("State", "joining: still catching up. paused: nothing was heard for 3 s. limited: the path is too narrow, "
         "so it is sent less.", query("max by (state) (punchcast_viewer_info@)", "{{state}}", instant=True), "none",
         names=True, none="not here"),
    stat("Path", "Kind of path. relayed: no direct path opened; have the viewer run `punchcast-viewer check`.",
         query("max by (path) (punchcast_viewer_info@)", "{{path}}", instant=True), "none", names=True,
         none="not here"),
    stat("Loss", "Share of packets lost before repair, in the last report. Above 5%: the viewer's link, unless all "
         "viewers lose. Wi-Fi or a full line is usual.",
         query("max(punchcast_viewer_fraction_lost@)"), "percentunit", BAD_LOSS, decimals=1, none=GONE),
    stat("Round trip", "Round-trip time. Repair needs several of these within the viewer's --latency.",
         query("max(punchcast_viewer_rtt_seconds@)"), "s", none=GONE),
    stat("Jitter", "Interarrival jitter. Near the viewer's --latency, packets come too late.",
         query("max(punchcast_viewer_jitter_seconds@)"), "s", none=GONE),
    stat("Latency", "Capture to output. It follows the viewer's --latency.",
         query("max(punchcast_viewer_latency_seconds@)"), "s", none=GONE),
    states("State and path over time", "What the viewer was, when. Often paused or joining: its link is interrupted.",
           query("max by (state, path) (punchcast_viewer_info@)", "{{state}}, {{path}}"), NOW, width=16,
           height=6, none="not here"),
    stat("Lost", "Packets lost before repair in the time shown. What matters is how many of them were missing "
         "at their deadline.",
         query(count(REPORTED + '@{what="lost"}'), instant=True), "short", decimals=0, height=6, none=GONE),
    stat("Missing at their deadline", "Packets that repair did not bring in time, in the time shown. Each may "
         "be seen. Give the viewer more --latency.",
         query(count(REPORTED + '@{what="unrecovered"}'), instant=True), "short", SELDOM, decimals=0,
         height=6, none=GONE),
]

PATH_ROW = [
    row("Is it this viewer, or all?"),
    graph("Loss", "Share of packets lost before repair, beside the median of all viewers. Only this line is high: the "
          "viewer's link. Both: the broadcaster's uplink.",
          beside_all("punchcast_viewer_fraction_lost", "punchcast_loss_ratio", "this viewer"), "percentunit",
          BAD_LOSS, width=12, none=GONE),
    graph("Round trip", "If it grows with loss, the viewer's line is full: a queue builds up.",
          beside_all("punchcast_viewer_rtt_seconds", "punchcast_rtt_seconds", "this viewer"), "s", width=12,
          none=GONE),
    graph("Jitter", "Interarrival jitter. Bursts of it are usual on Wi-Fi.",
          beside_all("punchcast_viewer_jitter_seconds", "punchcast_jitter_seconds", "this viewer"), "s", width=12,
          none=GONE),
    graph("Latency", "Capture to output. Steps: the viewer was given another --latency, or auto chose one.",
          beside_all("punchcast_viewer_latency_seconds", "punchcast_latency_seconds", "this viewer"), "s",
          width=12, none=GONE),
]

PACKETS_ROW = [
    row("What arrived?"),
    graph("Received and lost", "Packets a second by the viewer's reports. Received falls without loss: it is "
          "sent less, as its path is too narrow, or the stream itself got smaller.",
          query(rate(REPORTED + '@{what=~"received|lost"}', "what"), "{{what}}"), "pps",
          colors={"received": "blue", "lost": "orange"}, none=GONE),
    graph("Recovered and not", "Lost packets a second that came back, and those missing at their deadline. If "
          "the last are many: more --latency, at best four round trips.",
          query(rate(REPORTED + '@{what=~"recovered|unrecovered"}', "what"), "{{what}}"), "pps",
          colors={"recovered": "green", "unrecovered": "red"}, none=GONE),
    graph("Share of packets", "Lost before repair, and missing at their deadline, of what should have come. The "
          "second is what people see.",
          [query(share(rate(REPORTED + f'@{{what="{what}"}}'),
                       rate(REPORTED + '@{what=~"received|unrecovered"}')), what)
           for what in ("lost", "unrecovered")], "percentunit",
          colors={"lost": "orange", "unrecovered": "red"}, none=GONE),
]

WATCH = "punchcast_watch_packets_total"

PROCESS_ROW = [
    row("The viewer's own process, where it has --metrics ($process)"),
    states("State", "What the process is doing. reconnecting: its path broke, and it opens another one. "
           "introducing for long: the rendezvous does not answer. opening for long: no path opens.",
           query("max by (instance, state) (punchcast_watch_state@process)", "{{instance}} {{state}}"), NOW,
           width=12, height=8, none=NO_PROCESS),
    states("Ready", "Whether it plays, as /readyz says. Red for long: see its state on the left.",
           query("max by (instance) (punchcast_ready@process)", "{{instance}}"), READY,
           width=4, height=8, none=NO_PROCESS),
    stat("Path", "Kind of the path in use, by the viewer itself. relayed: see docs/nat.md for a direct path.",
         query("max by (instance, path) (punchcast_watch_path_info@process == 1)",
               "{{path}}", instant=True), "none", width=4,
         height=8, names=True, none=NO_PROCESS),
    stat("Path carries", "What the path carries, where it is too narrow for the stream. Lower video.bitrate if many "
         "viewers are so.",
         query("8 * min(punchcast_watch_path_carries_bytes_per_second@process > 0)"), "bps",
         width=4, height=8, none="all of it"),
    stat("Path opened in", "From the introduction to the path proved, in this session. Seconds: a search for "
         "ports, or a relay, was needed.",
         query("max(punchcast_watch_open_seconds@process > 0)"), "s", graph=False, none=NO_PROCESS),
    stat("First packet after", "From the start of the process to the first media packet.",
         query("max(punchcast_watch_first_packet_seconds@process > 0)"), "s", graph=False, none=NO_PROCESS),
    stat("First picture after", "From the start of the process to the first picture. Much more than the first "
         "packet: a long GOP, or a slow decoder.",
         query("max(punchcast_watch_first_frame_seconds@process > 0)"), "s", graph=False, none=NO_PROCESS),
    stat("Round trip", "Round-trip time to the broadcaster, by the viewer itself. Repair needs several of these "
         "within --latency.", query("max(punchcast_watch_rtt_seconds@process > 0)"), "s", none=NO_PROCESS),
    stat("Latency", "Capture to output, by the viewer itself. It follows --latency.",
         query("max(punchcast_watch_latency_seconds@process > 0)"), "s", none=NO_PROCESS),
    stat("Reconnects", "Paths that broke and were opened again, in the time shown. Many: the viewer's network "
         "or router.",
         query(count("punchcast_watch_reconnects_total@process", window=RANGE), instant=True), "short", SELDOM,
         decimals=0, none=NO_PROCESS),
    graph("Packets", "Packets a second by what became of them; recovered ones are among the received. "
          "unrecovered ones may be seen.",
          query(rate(WATCH + '@process{what=~"received|lost|recovered_.+|unrecovered"}', "what"), "{{what}}"), "pps",
          colors={"received": "blue", "unrecovered": "red"}, none=NO_PROCESS),
    graph("Packets of no use", "Packets a second that came twice, after their deadline, or not authentic. Many "
          "late ones: more --latency.",
          query(rate(WATCH + '@process{what=~"duplicate|late|corrupt"}', "what"), "{{what}}"), "pps",
          none=NO_PROCESS),
    graph("Bytes received", "Media received each second, repair packets included. Far below the stream's rate: "
          "the path is too narrow.",
          query(f"8 * {rate('punchcast_watch_bytes_received_total@process', 'instance')}", "{{instance}}"), "bps",
          none=NO_PROCESS),
    graph("Pictures", "Pictures a second decoded, and dropped because they came out of the decoder too late to "
          "be shown. Dropped without missing packets: the machine is too slow.",
          [query(rate("punchcast_watch_frames_decoded_total@process"), "decoded"),
           query(rate("punchcast_watch_frames_dropped_total@process"), "dropped")], "suffix: /s",
          colors={"dropped": "red"}, none=NO_PROCESS),
    graph("Round trip and jitter", "By the viewer itself. Jitter near --latency: packets come too late; give more.",
          [query("max by (instance) (punchcast_watch_rtt_seconds@process)", "round trip {{instance}}"),
           query("max by (instance) (punchcast_watch_jitter_seconds@process)", "jitter {{instance}}")], "s",
          none=NO_PROCESS),
    graph("Reconnects", "Reconnects a minute. Regular ones: a router that forgets bindings, or changes its address.",
          per_minute("punchcast_watch_reconnects_total@process", "instance", "{{instance}}"), "cpm", none=NO_PROCESS),
    *[{**panel, "none": panel.get("none") or NO_PROCESS} for panel in process("@process")],
]


def viewer():
    return dashboard(
        "punchcast-viewer", "punchcast: one viewer",
        "What the broadcaster knows of one viewer, beside all others, and what a viewer's own process says.",
        VARIABLES, SELECTORS, NOW_ROW + PATH_ROW + PACKETS_ROW + PROCESS_ROW)
