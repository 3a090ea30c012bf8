#!/bin/bash
# Checks Prometheus's configuration and the alerts, and runs the alerts' tests. Needs promtool (Debian:
# package prometheus).
source "$(dirname "$0")/common.sh"

command -v promtool >/dev/null ||
    fail "promtool is needed; on Debian and Ubuntu: apt-get install prometheus"
for check in "check config grafana/prometheus.yaml" "check rules grafana/alerts.yaml" \
    "test rules grafana/alerts_test.yaml"; do
    read -r -a words <<<"$check"
    if ! output=$(promtool "${words[@]}" 2>&1); then
        printf '%s\n' "$output" >&2
        fail "promtool $check"
    fi
done
