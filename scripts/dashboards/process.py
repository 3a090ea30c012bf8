"""What every program has: CPU, memory, file descriptors, restarts, version."""

from .grafana import SELDOM, graph, query, stat, table


def process(own, width=6):
    """Panels about the processes that the selector `own` (as in `@`) chooses."""
    restarts = f"sum(changes(process_start_time_seconds{own}[$__range]))"
    return [
        graph("CPU", "Cores in use, by process. At 1 or more for each core of the machine, packets are sent "
              "late: fewer viewers, or a larger machine.",
              query(f"sum by (instance) (rate(process_cpu_seconds_total{own}[$__rate_interval]))", "{{instance}}"),
              "suffix: cores", width=width),
        graph("Memory", "Resident memory, by process. Steady growth with a steady number of viewers is a leak: "
              "restart, and report it.",
              query(f"max by (instance) (process_resident_memory_bytes{own})", "{{instance}}"), "bytes",
              width=width),
        graph("File descriptors", "Share of the file descriptors that the process may open. Near 100%: raise "
              "LimitNOFILE.",
              query(f"max by (instance) (process_open_fds{own} / process_max_fds{own})", "{{instance}}"),
              "percentunit", [(None, "green"), (0.8, "red")], width=width),
        graph("Threads", "Threads, by process. Should be steady.",
              query(f"max by (instance) (process_threads{own})", "{{instance}}"), "short", width=width),
        stat("Restarts", "How often a process started anew in the time shown. Unintended: see its log and exit code "
             "(README).", query(restarts, instant=True), "short", SELDOM, width=width, decimals=0),
        table("Versions", "Program, version and time since the start.",
              [query(f"max by (instance, program, version) (punchcast_build_info{own})"),
               query(f"time() - max by (instance) (process_start_time_seconds{own})")],
              [("instance", "Instance", []), ("program", "Program", []), ("version", "Version", []),
               ("Value #A", None, []),
               ("Value #B", "Up for", [("unit", "dtdurations")])],
              width=24 - width, height=4),
    ]
