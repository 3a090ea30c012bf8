# What people type; the work is done by scripts/.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-repair nat soak deb

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Install what is missing, build, and stream a clip on this machine (KEEP=1: until Ctrl-C)
	@KEEP=$(KEEP) scripts/demo.sh

test: ## Install what is missing, and run every test
	@scripts/test.sh

lint: ## Check format, lints, documentation, dependencies, scripts and dashboards
	@scripts/lint.sh

bench: ## Measure the fan-out beside other ways of sending
	@scripts/bench.sh

bench-repair: ## Measure repair beside SRT and RIST, over links that lose and delay
	@scripts/bench-repair.sh $(ARGS)

deb: ## Make .deb packages of the three programs, into target/debian
	@scripts/deb.sh

nat: ## Try which paths open between which NATs, and write the tables of docs/nat.md
	@scripts/nat.sh $(ARGS)

soak: ## Give random bytes to every parser for a minute each, break paths a hundred times, stand still for an hour, try the packages
	@scripts/soak.sh
