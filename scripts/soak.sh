#!/bin/bash
# The long runs: every fuzz target for a minute (or for the seconds given).
source "$(dirname "$0")/common.sh"

scripts/install.sh build
scripts/fuzz.sh "$@"
