"""The rendezvous: does it introduce, whom does it reject, how much does it relay."""

from .grafana import (NEVER, READY, SELDOM, count, dashboard, graph, per_minute, query, rate, row, stat, states,
                      variable)
from .process import process

SELECTORS = {"": 'job=~"$job",instance=~"$instance"'}

VARIABLES = [
    variable("job", "Job", "label_values(punchcast_build_info, job)"),
    # One that is embedded in a broadcaster is among them.
    variable("instance", "Rendezvous", 'label_values(punchcast_rendezvous_connections{job=~"$job"}, instance)'),
]

SERVING = [
    row("Does it serve?"),
    stat("Broadcasters", "Broadcasters registered now. 0 where there should be some: their `rendezvous` "
         "setting, or UDP port 3478 is not let in.",
         query("sum(punchcast_rendezvous_broadcasters@)"), "short", [(None, "red"), (1, "green")]),
    stat("Connections", "QUIC connections open now, of broadcasters and viewers. Bounded by limits.connections.",
         query("sum(punchcast_rendezvous_connections@)"), "short"),
    stat("Introductions", "Introductions in the time shown. Each becomes an attempt to open a path.",
         query(count("punchcast_rendezvous_introductions_total@"), instant=True), "short", decimals=0),
    stat("Rejected", "Requests rejected in the time shown. See the reasons below.",
         query(count("punchcast_rendezvous_rejected_total@"), instant=True), "short", SELDOM, decimals=0),
    stat("Relayed addresses", "Relayed addresses held now. Bounded by relay.allocations.",
         query("sum(punchcast_relay_allocations@)"), "short"),
    stat("Alerts firing", "Alerts of grafana/alerts.yaml that fire now, of all programs. docs/runbooks.md has a "
         "section for each.",
         query('count(ALERTS{alertname=~"Punchcast.+",alertstate="firing",job=~"$job"}) or vector(0)',
               instant=True), "short", NEVER),
    states("Ready", "What /readyz says. Not ready: see the log.",
           query("max by (instance) (punchcast_ready@)", "{{instance}}"), READY, height=8),
    graph("Introductions and registrations", "A minute. Registrations come in bursts when broadcasters return after an "
          "interruption. Introductions at 0 while viewers try: see \"Rejected\".",
          [per_minute("punchcast_rendezvous_introductions_total@", legend="introductions"),
           per_minute("punchcast_rendezvous_registrations_total@", legend="registrations")], "cpm",
          colors={"introductions": "blue"}),
    graph("Rejected", "Requests rejected a minute, by reason. unknown_broadcaster: old links, or a broadcaster "
          "that is gone. busy: raise limits. connection, stun: malformed, or a flood.",
          per_minute("punchcast_rendezvous_rejected_total@", "reason", "{{reason}}"), "cpm",
          colors={"busy": "red", "unknown_broadcaster": "orange"}),
    graph("Broadcasters", "Broadcasters registered. Falls to 0 for all at once: this machine's network, or a restart.",
          query("sum by (instance) (punchcast_rendezvous_broadcasters@)", "{{instance}}"), "short"),
    graph("Connections", "QUIC connections. Steady growth without broadcasters or introductions: somebody holds "
          "them; they are bounded by limits.connections.",
          query("sum by (instance) (punchcast_rendezvous_connections@)", "{{instance}}"), "short"),
    graph("STUN answers", "STUN requests a second that were answered with the requester's address. A flood "
          "costs little, but see CPU.",
          query(rate("punchcast_rendezvous_stun_answers_total@", "instance"), "{{instance}}"), "reqps"),
    graph("Datagrams dropped", "Datagrams a second that the port dropped unread, by reason. unknown: scans. overflow: more "
          "QUIC than is read, a flood; see CPU.",
          query(rate("punchcast_rendezvous_datagrams_dropped_total@", "reason"), "{{reason}}"), "pps",
          colors={"overflow": "red"}),
]

RELAY = [
    row("How much is relayed?"),
    graph("Relayed", "Media passed on each second, both directions together. Near relay.rate, packets are "
          "dropped: raise it if the line carries more.",
          query(f"8 * {rate('punchcast_relay_bytes_total@', 'instance')}", "{{instance}}"), "bps", width=6),
    graph("Relayed addresses", "Held now. At relay.allocations (200 unless set), further viewers are rejected "
          "(capacity).",
          query("sum by (instance) (punchcast_relay_allocations@)", "{{instance}}"), "short", width=6),
    graph("Relayed addresses given out", "A minute, beside introductions. Viewers allocate one meanwhile; many "
          "that stay have no direct path: see \"Viewers by path\" in the overview.",
          [per_minute("punchcast_relay_allocations_total@", legend="relayed addresses"),
           per_minute("punchcast_rendezvous_introductions_total@", legend="introductions")], "cpm", width=6),
    graph("Rejected by the relay", "Requests and datagrams a minute, by reason. capacity, quota: raise "
          "relay.allocations or allocations_per_viewer. rate, congestion: relay.rate. unauthorized: expired "
          "credentials, or strangers.",
          per_minute("punchcast_relay_rejected_total@", "reason", "{{reason}}"), "cpm", width=6,
          colors={"capacity": "red", "congestion": "orange", "rate": "yellow"}),
]


def rendezvous():
    return dashboard(
        "punchcast-rendezvous", "punchcast: rendezvous",
        "Introductions, registrations, rejections, STUN and the relay; embedded rendezvous included.",
        VARIABLES, SELECTORS, SERVING + RELAY + [row("Process"), *process("@")])
