"""The broadcast: is everybody watching, who loses packets, whose fault is it, what is left."""

from .grafana import (BAD_LOSS, NEVER, RANGE, READY, SELDOM, coloured, count, dashboard, graph, link, named,
                      per_minute, quantiles, query, rate, row, share, stat, states, table, variable)
from .process import process

SELECTORS = {"": 'job=~"$job",instance=~"$instance"'}

VARIABLES = [
    variable("job", "Job", "label_values(punchcast_build_info, job)"),
    variable("instance", "Broadcaster", "label_values(punchcast_viewers{job=~\"$job\"}, instance)"),
]

# To the dashboard of one viewer, with the time shown here.
VIEWER = "/d/punchcast-viewer?${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
FROM_SERIES = link(
    "This viewer",
    VIEWER + "&var-instance=${__field.labels.instance}&var-viewer=${__field.labels.viewer}",
)
FROM_LINE = link(
    "This viewer",
    VIEWER + "&var-instance=${__data.fields.Broadcaster}&var-viewer=${__data.fields.Viewer}",
)

# As the broadcaster reckons: media may fill 95% of the uplink, and a viewer takes a tenth more than
# its stream, for repair.
CARRIES = ("floor(0.95 * (punchcast_uplink_budget_bytes_per_second@ > 0)"
           " / on (job, instance) (1.1 * max by (job, instance) (punchcast_channel_bytes_per_second@)))")


def worst(metric, title, description, unit, thresholds=None):
    """Lines of the ten viewers that were the worst over the time shown."""
    single = f"max by (instance, viewer) ({metric}@)"
    chosen = (f"{single} and on (instance, viewer) "
              f"topk(10, max by (instance, viewer) (avg_over_time({metric}@[$__range] @ end())))")
    return graph(title, description, query(chosen, "viewer {{viewer}}"), unit, thresholds,
                 links=[FROM_SERIES], none="no viewer has reported")


def openings(result):
    """By kind of NAT; 0 for a kind that had only other results."""
    every = count("punchcast_path_openings_total@", "nat")
    these = count(f'punchcast_path_openings_total@{{result="{result}"}}', "nat")
    return f"{these} or 0 * {every}"


def reported(what):
    """Packets of each viewer that is still there."""
    packets = count(f'punchcast_viewer_reported_packets_total@{{what="{what}"}}', "instance, viewer")
    return f"{packets} and on (instance, viewer) punchcast_viewer_info@"


WATCHING = [
    row("Is everybody watching?"),
    stat("Viewers", "Viewers admitted now, over the chosen broadcasters. A fall that nobody intended: "
         "see why they left under \"Arrivals and departures\".",
         query("sum(punchcast_viewers@)"), "short"),
    stat("Joining", "Viewers that are still catching up with the live edge. It should fall to 0 within "
         "seconds of each arrival; if not, the uplink has no room for joining bursts.",
         query("sum(punchcast_viewers_joining@)"), "short"),
    stat("Paused", "Viewers that have said nothing for 3 s, so that nothing is sent to them. After 30 s "
         "they are gone. Many at once: this machine's own network was interrupted.",
         query("sum(punchcast_viewers_paused@)"), "short", SELDOM),
    stat("Refused", "Viewers refused in the time shown. See \"Refusals\" for the reasons.",
         query(count("punchcast_refusals_total@"), instant=True), "short", SELDOM, decimals=0),
    stat("Openings that failed", "Share of the attempts in the time shown for which no path opened. Above 20%: "
         "see \"Openings by kind of NAT\" for whom, and docs/nat.md for what to change.",
         query(share(count('punchcast_path_attempts_total@{result="failed"}'),
                     count("punchcast_path_attempts_total@")), instant=True),
         "percentunit", [(None, "green"), (0.05, "yellow"), (0.2, "red")], none="no attempts"),
    stat("Alerts firing", "Alerts of grafana/alerts.yaml that fire now. docs/runbooks.md has a section for each.",
         query('count(ALERTS{alertname=~"Punchcast.+",alertstate="firing",job=~"$job"}) or vector(0)',
               instant=True), "short", NEVER),
    graph("Viewers", "Admitted viewers; those among them that are catching up, paused, losing more than 2%, or "
          "sent less because their path is too narrow. The last three should stay near 0.",
          [query("sum(punchcast_viewers@)", "admitted"),
           query("sum(punchcast_viewers_joining@)", "joining"),
           query("sum(punchcast_viewers_paused@)", "paused"),
           query("sum(punchcast_viewers_lossy@)", "lossy"),
           query("sum(punchcast_viewers_limited@)", "path too narrow")],
          "short", colors={"admitted": "blue", "paused": "orange", "lossy": "red"}),
    graph("Viewers by path", "Kind of path: within the network (host), by a port that a router maps (mapped), as the "
          "rendezvous saw it (reflexive), a predicted port, or over a relay. Many relayed viewers cost the "
          "relay's bandwidth: see docs/nat.md for what would open direct paths.",
          query("sum by (path) (punchcast_viewers_by_path@)", "{{path}}"), "short", stacked=True,
          colors={"relayed": "orange"}),
    graph("Arrivals and departures", "Viewers a minute that were admitted, and that left: by themselves (left), "
          "because their path was lost, because the broadcast ended, or because they were removed. Many lost "
          "ones at once: this machine's network.",
          [per_minute("punchcast_admissions_total@", legend="admitted"),
           per_minute("punchcast_departures_total@", "reason", "{{reason}}")],
          "cpm", colors={"admitted": "green", "lost": "red"}),
    graph("Refusals", "Viewers refused a minute, by reason. full: raise max_viewers or uplink, or lower video.bitrate. "
          "not_ready: the source gives nothing yet. secret, unknown_channel: they hold an old or wrong link.",
          per_minute("punchcast_refusals_total@", "reason", "{{reason}}"), "cpm",
          colors={"full": "red", "not_ready": "orange"}),
    graph("Openings", "Attempts a minute for which a path opened, or none did before the deadline. If all fail, "
          "UDP is blocked here: run `punchcast-viewer check` on the broadcaster's machine.",
          [per_minute("punchcast_path_attempts_total@", "result", "{{result}}"),
           per_minute("punchcast_path_moves_total@", legend="paths that moved")],
          "cpm", colors={"opened": "green", "failed": "red"}),
    table("Openings by kind of NAT", "Attempts in the time shown, by the kind of the viewer's NAT. One kind "
          "that fails: look it up in docs/nat.md. All kinds fail: the NAT or firewall here is the cause.",
          [query(openings("opened")),
           query(openings("failed")),
           query(share(f"({openings('failed')})", count("punchcast_path_openings_total@", "nat")))],
          [("nat", "NAT of the viewer", []),
           ("Value #A", "Opened", [("decimals", 0)]),
           ("Value #B", "Failed", [("decimals", 0)]),
           ("Value #C", "Share failed", [("unit", "percentunit"), ("decimals", 0),
                                         *coloured([(None, "transparent"), (0.2, "orange"), (0.5, "red")])])],
          width=8, height=8, sort="Failed", none="no attempts"),
    graph("Time to open a path", "From the introduction received to the path proved, of paths that opened; each "
          "point is over a window as long as the time shown. Seconds mean that a search for ports or a relay "
          "was needed.",
          quantiles("punchcast_path_open_seconds@", window=RANGE), "s", none="no path opened"),
    graph("Time to the first packet", "From the introduction received to the viewer's place in the stream, from "
          "where on it is sent media at once; each point is over a window as long as the time shown. Much "
          "longer than the time to open: the broadcaster or its uplink is busy.",
          quantiles("punchcast_first_packet_seconds@", window=RANGE), "s", none="nobody joined"),
    table("NAT of the broadcaster", "What the NAT or firewall before the broadcaster does. mapping or ports other than "
          "endpoint-independent and kept: forward a port, or let the router map one (docs/nat.md).",
          [query("max by (instance, kind, mapping, filtering, ports) (punchcast_nat_info@)")],
          [("instance", "Broadcaster", []), ("kind", "Kind", []), ("mapping", "Mapping", []),
           ("filtering", "Filtering", []), ("ports", "Ports", []),
           ("Value", None, [])], width=8, height=8, none="not known yet"),
]

LOSING = [
    row("Who is losing packets?"),
    table("Viewers, worst first", "The viewers with series of their own, by loss in the last report, before repair. "
          "One with much loss: its access link; click for its dashboard. All alike: see the next row.",
          [query("max by (instance, viewer) (punchcast_viewer_fraction_lost@)"),
           query("max by (instance, viewer) (punchcast_viewer_rtt_seconds@)"),
           query("max by (instance, viewer) (punchcast_viewer_jitter_seconds@)"),
           query("max by (instance, viewer) (punchcast_viewer_latency_seconds@)"),
           query(reported("lost")),
           query(reported("unrecovered")),
           query("max by (instance, viewer, path, state) (punchcast_viewer_info@)")],
          [("viewer", "Viewer", [("links", [FROM_LINE])]),
           ("instance", "Broadcaster", []),
           ("state", "State", []),
           ("path", "Path", []),
           ("Value #A", "Loss", [("unit", "percentunit"), ("decimals", 1),
                                 *coloured([(None, "transparent"), (0.02, "yellow"), (0.05, "red")])]),
           ("Value #B", "Round trip", [("unit", "s")]),
           ("Value #C", "Jitter", [("unit", "s")]),
           ("Value #D", "Latency", [("unit", "s")]),
           ("Value #E", "Lost in the time shown", [("decimals", 0)]),
           ("Value #F", "Unrecovered in the time shown", [("decimals", 0)]),
           ("Value #G", None, [])],
          sort="Loss", none="no viewer has reported"),
    worst("punchcast_viewer_fraction_lost", "Loss of the worst viewers", "Share of packets lost before repair, in each "
          "report, of the ten that lost most in the time shown. Click a line for the viewer's dashboard.",
          "percentunit", BAD_LOSS),
    worst("punchcast_viewer_rtt_seconds", "Longest round trips", "Round-trip time of the ten viewers with the "
          "longest. One that grows: a queue on that viewer's link. All grow: our uplink is full.", "s"),
    worst("punchcast_viewer_latency_seconds", "Longest latencies", "Capture to output of the ten viewers with "
          "the longest. It follows each viewer's --latency.", "s"),
]

THEM_OR_US = [
    row("Is it them or us?"),
    graph("Share of viewers that lose", "Share of viewers that lost more than 2% in their last report. A few: "
          "their own links. More than half: our uplink, so lower video.bitrate or set uplink.",
          query(share("sum(punchcast_viewers_lossy@)", "sum(punchcast_viewers@)"), "lossy"), "percentunit",
          [(None, "green"), (0.5, "red")], highest=1, none="no viewers"),
    states("Uplink full", "Whether most viewers suffer at once, so that the broadcaster takes its uplink to be full. "
           "Lower video.bitrate, or see what else uses the uplink.",
           query("max by (instance) (punchcast_uplink_full@)", "{{instance}}"),
           named([(0, "no", "green"), (1, "full", "red")]), height=8),
    graph("Not sent", "Packets a second that the kernel did not take (blocked, failed) or that waited longer "
          "than 1 s for the uplink (late). Should be 0. late: the stream is too much for the uplink. blocked: "
          "CPU or network driver.",
          query(rate("punchcast_send_errors_total@", "reason"), "{{reason}}"), "pps",
          colors={"late": "red", "blocked": "orange"}),
    graph("Loss over all viewers", "Quantiles over all viewers' seconds, before repair. A high median is us; a "
          "high 99% with a low median is a few viewers.",
          quantiles("punchcast_loss_ratio@"), "percentunit", BAD_LOSS, none="no reports"),
    graph("Missing over all viewers", "Quantiles of the share of packets that were missing at their deadline: visible "
          "faults. If it follows the loss, ask those viewers for more --latency.",
          quantiles("punchcast_unrecovered_ratio@"), "percentunit", none="no reports"),
    graph("Waiting to be sent", "Media that waits for the uplink, over all viewers. More than a second of the stream's "
          "rate to all viewers is dropped (late). Growing: too many viewers or too high a bitrate.",
          query("sum by (instance) (punchcast_pacing_queue_bytes@)", "{{instance}}"), "bytes"),
    graph("Round trip over all viewers", "Quantiles. If the median grows together with loss, our uplink has a queue.",
          quantiles("punchcast_rtt_seconds@"), "s", none="no reports"),
    graph("Jitter over all viewers", "Quantiles of interarrival jitter. A high median is our network or a busy "
          "machine.",
          quantiles("punchcast_jitter_seconds@"), "s", none="no reports"),
    graph("Latency over all viewers", "Quantiles of the time from capture to output. Viewers choose it with --latency.",
          quantiles("punchcast_latency_seconds@"), "s", none="no reports"),
]

REPAIR = [
    row("What did the program do about it?"),
    graph("Packets sent", "Media packets a second to all viewers, and those among them that were sent again or are "
          "Reed-Solomon repair packets. If these are more than a fifth, see who loses.",
          [query(rate("punchcast_packets_sent_total@"), "all"),
           query(rate("punchcast_packets_retransmitted_total@"), "sent again"),
           query(rate("punchcast_repair_packets_sent_total@"), "repair packets")],
          "pps", colors={"all": "blue"}),
    graph("Cost of repair", "Share of all bytes sent that repair lost packets, or that bring joining viewers up "
          "to date. Above 20% for long: loss is too high for repair to be worth it.",
          [query(share(rate("punchcast_repair_bytes_sent_total@"), rate("punchcast_bytes_sent_total@")), "repair"),
           query(share(rate("punchcast_join_bytes_sent_total@"), rate("punchcast_bytes_sent_total@")), "joining")],
          "percentunit", none="nothing is sent"),
    graph("Recovered and not", "Packets a second that viewers got back (asked for again, or rebuilt from repair "
          "packets), and those missing at their deadline. Any of the last may be seen.",
          [query(rate('punchcast_viewer_packets_total@{what=~"recovered_.+"}', "what"), "{{what}}"),
           query(rate("punchcast_viewer_packets_lost_total@"), "lost before repair"),
           query(rate("punchcast_viewer_packets_unrecovered_total@"), "unrecovered")],
          "pps", colors={"unrecovered": "red", "lost before repair": "orange"}),
    stat("Unrecovered", "Packets missing at their deadline, over all viewers, in the time shown. Each may be a visible "
         "fault: see who under \"Viewers, worst first\".",
         query(count("punchcast_viewer_packets_unrecovered_total@"), instant=True), "short", SELDOM,
         height=8, decimals=0),
    stat("Waiting to be sent again", "Packets of all viewers that wait to be sent again, or as repair packets. "
         "Thousands: loss is more than the uplink has room to repair.",
         query("sum(punchcast_repair_queue_packets@)"), "short", [(None, "green"), (1000, "yellow"), (8000, "red")],
         height=8),
    graph("Packets of no use", "Packets a second that viewers got twice, after their deadline, or not "
          "authentic. Many late ones: --latency is too short for the round trip. corrupt ones: a faulty link, "
          "or forgery.",
          query(rate('punchcast_viewer_packets_total@{what=~"duplicate|late|corrupt"}', "what"), "{{what}}"),
          "pps"),
    graph("Left out and given up", "Events a second: packets not sent to viewers whose path is too narrow; "
          "access units and requests for repair dropped because the fan-out was behind. The last two should be "
          "0, or CPU is short.",
          [query(rate("punchcast_packets_left_out_total@"), "left out"),
           query(rate("punchcast_access_units_dropped_total@"), "access units dropped"),
           query(rate("punchcast_repair_requests_dropped_total@"), "repair requests dropped")],
          "cps", colors={"access units dropped": "red"}),
]

UPLINK = [
    row("How much uplink is left?"),
    stat("Used", "Media handed to the kernel each second, headers included. Near \"Carries\": no room for more "
         "viewers.",
         query("8 * sum(punchcast_uplink_used_bytes_per_second@)"), "bps"),
    stat("Carries", "What the uplink carries: as the key uplink says, or as estimated. Less than the line has: "
         "set uplink.",
         query("8 * sum(punchcast_uplink_budget_bytes_per_second@ > 0)"), "bps", none="no limit known"),
    stat("Left", "What is left of the uplink. Below 10% no viewer more is admitted: raise uplink if the line "
         "carries more, or lower video.bitrate.",
         query("8 * sum((punchcast_uplink_budget_bytes_per_second@ > 0) - punchcast_uplink_used_bytes_per_second@)"),
         "bps", none="no limit known"),
    stat("In use", "Share of the uplink in use. 95% is what admission fills.",
         query("max(punchcast_uplink_used_bytes_per_second@ / (punchcast_uplink_budget_bytes_per_second@ > 0))"),
         "percentunit", [(None, "green"), (0.8, "yellow"), (0.9, "red")], none="no limit known"),
    stat("For each viewer", "What each viewer needs, sound and headers included. Follows video.bitrate.",
         query("8 * max(punchcast_channel_bytes_per_second@)"), "bps"),
    stat("Viewers it would carry", "How many viewers the uplink carries, with a tenth more for repair. Near the "
         "number of viewers: the next ones are refused.",
         query(f"sum({CARRIES})"), "short", none="no limit known"),
    graph("Uplink", "What is used and what the uplink carries. Where they meet, packets wait, then are late: "
          "lower video.bitrate or max_viewers.",
          [query("8 * sum(punchcast_uplink_used_bytes_per_second@)", "used"),
           query("8 * sum(punchcast_uplink_budget_bytes_per_second@ > 0)", "carries")],
          "bps", colors={"used": "blue", "carries": "red"}, width=8),
    graph("What it is used for", "UDP payload sent each second: live media, joining bursts, and repair. Much "
          "repair: see who loses. Much joining for long: lower join_rate.",
          [query(f"8 * ({rate('punchcast_bytes_sent_total@')} - {rate('punchcast_join_bytes_sent_total@')}"
                 f" - {rate('punchcast_repair_bytes_sent_total@')})", "live"),
           query(f"8 * {rate('punchcast_join_bytes_sent_total@')}", "joining"),
           query(f"8 * {rate('punchcast_repair_bytes_sent_total@')}", "repair")],
          "bps", stacked=True, width=8),
    graph("Viewers by channel", "Viewers of each live channel, where one broadcaster has several. They share its uplink by what "
          "their viewers need.",
          query("sum by (instance, channel) (punchcast_channel_viewers@)", "{{instance}} {{channel}}"), "short", width=8),
    graph("Viewers and room for them", "Viewers admitted, and how many the uplink would carry at the channel's "
          "present rate. Where they meet, viewers are refused: lower video.bitrate.",
          [query("sum(punchcast_viewers@)", "viewers"), query(f"sum({CARRIES})", "would carry")],
          "short", colors={"viewers": "blue", "would carry": "red"}, width=8),
]

ENCODER = [
    row("Encoder"),
    graph("Pictures", "Pictures a second into the encoder, coded, and dropped because it was behind. In falls: "
          "the source or camera. Dropped rises: lower video.width, height or framerate, or free CPU.",
          [query(rate("punchcast_encoder_frames_in_total@", "instance, channel"), "in {{instance}} {{channel}}"),
           query(rate("punchcast_encoder_frames_encoded_total@", "instance, channel"), "coded {{instance}} {{channel}}"),
           query(rate("punchcast_encoder_frames_dropped_total@", "instance, channel"),
                 "dropped {{instance}} {{channel}}")],
          "suffix: /s"),
    graph("Time to encode", "From picture in to coded picture out. Above the time between pictures (33 ms at "
          "30/s), the encoder falls behind.",
          quantiles("punchcast_encoder_seconds@"), "s", none="pictures come encoded"),
    graph("Age of the latest keyframe", "Time since the latest keyframe. A saw with the period of "
          "video.keyframe_interval; growing on: nobody can join.",
          query("max by (instance, channel) (punchcast_keyframe_age_seconds@)", "{{instance}} {{channel}}"), "s",
          [(None, "green"), (20, "red")]),
    graph("Length of a GOP", "Time between the last two keyframes. Short costs bits; long makes joining slow. "
          "Set it by video.keyframe_interval.",
          query("max by (instance, channel) (punchcast_gop_seconds@)", "{{instance}} {{channel}}"), "s"),
    graph("Size of a GOP", "Bytes of the last complete GOP, what a joining viewer may have to get first, and of "
          "all that is kept for joining and repair (64 MiB at most). Large GOPs: shorter "
          "video.keyframe_interval.",
          [query("max by (instance, channel) (punchcast_gop_bytes@)", "last GOP {{instance}} {{channel}}"),
           query("max by (instance) (punchcast_history_bytes@)", "history {{instance}}")], "bytes"),
    graph("Sources", "1 while a channel's source runs, 0 while it is away and started again: the log's source_lost says why.",
          query("min by (instance, channel) (punchcast_source_live@)", "{{instance}} {{channel}}"), "short"),
    graph("Who watches which rendition", "Viewers of each, where the picture comes in several sizes. Most at the smallest: paths are narrow, or the "
          "next one is too much for them; see docs/renditions.md.",
          query("sum by (instance, channel, rendition) (punchcast_rendition_viewers@)", "{{instance}} {{channel}} {{rendition}}"),
          "short", none="one rendition"),
    graph("Rates of renditions", "What each viewer of a rendition is sent, sound and headers included; 0 while nobody watches it, so that it is "
          "not encoded.",
          query("8 * max by (instance, channel, rendition) (punchcast_rendition_bytes_per_second@)",
                "{{instance}} {{channel}} {{rendition}}"), "bps", none="one rendition"),
    graph("Changes of rendition", "Times a minute that a viewer went on with another one. Many for few viewers: paths whose width changes.",
          per_minute("punchcast_rendition_switches_total@", legend="changes"), "cpm"),
    graph("Keyframes", "Keyframes a minute: coded, and asked for because of joining viewers. Asked for and not "
          "coded: the source does not make them on request.",
          [per_minute("punchcast_encoder_keyframes_total@", legend="coded"),
           per_minute("punchcast_keyframes_requested_total@", legend="asked for")], "cpm"),
]

STORED = [
    row("Stored files"),
    graph("Viewers of stored files", "Playouts under way, paused ones included, and copies that are being sent. At most "
          "256 and 64 at once.",
          [query("sum(punchcast_playouts@)", "playouts"), query("sum(punchcast_fetches@)", "copies")], "short"),
    graph("Takes", "Takes begun a minute: starts, seeks, goings-on after a pause or a broken path. Many for few "
          "viewers: paths that break, or somebody who seeks.",
          per_minute("punchcast_takes_total@", legend="takes"), "cpm"),
    graph("Contents copied", "Bytes a second of stored files' contents handed to QUIC. It takes what live viewers and "
          "playouts leave of the uplink.",
          query(rate("punchcast_fetched_bytes_total@"), "copied"), "Bps"),
    graph("Copies ended", "Copies a minute that came to an end, by result. Broken ones go on when the viewer asks again.",
          per_minute("punchcast_fetches_total@", "result", "{{result}}"), "cpm"),
    graph("Files in the library", "Files that can be played, that cannot, and that nobody has looked at yet. "
          "Unplayable: punchcast-viewer list says why.",
          query("sum by (state) (punchcast_library_files@)", "{{state}}"), "short", stacked=True),
    graph("Library", "Bytes of all files in the library.",
          query("sum(punchcast_library_bytes@)", "bytes"), "bytes"),
]

PROCESS = [
    row("Process and feedback"),
    states("Ready", "What /readyz says: registered with a rendezvous, and a source that gives pictures. Not ready: see "
           "the log.", query("max by (instance) (punchcast_ready@)", "{{instance}}"), READY, height=8),
    graph("Feedback", "Authentic reports and requests of viewers a second. About one a second for each viewer, more "
          "with loss.",
          query(rate("punchcast_feedback_packets_total@"), "taken"), "pps"),
    graph("Feedback dropped", "Datagrams a second dropped that begin like feedback, by reason. too_many: a "
          "viewer floods. forged, replayed, elsewhere: somebody tries things; it costs little.",
          query(rate("punchcast_feedback_packets_dropped_total@", "reason"), "{{reason}}"), "pps"),
    graph("Datagrams dropped", "Datagrams a second that the port dropped unread, by reason. stranger: QUIC from addresses "
          "that nobody was introduced at. unknown: scans. overflow: more QUIC than is read; see CPU.",
          query(rate("punchcast_datagrams_dropped_total@", "reason"), "{{reason}}"), "pps",
          colors={"overflow": "red"}),
    *process("@"),
]


def overview():
    return dashboard(
        "punchcast-overview", "punchcast: broadcast overview",
        "Is everybody watching, who loses packets, is it them or us, what was done about it, and how "
        "much uplink is left.",
        VARIABLES, SELECTORS,
        WATCHING + LOSING + THEM_OR_US + REPAIR + UPLINK + ENCODER + STORED + PROCESS)
