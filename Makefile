# What people and CI call. `make test` sets up what the tests need, where it may.
CARGO ?= cargo
TEST_RUNNER := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo "nextest run" || echo test)

.PHONY: help test lint fmt deny advisories demo

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

test: ## All tests, against a private RabbitMQ on loopback (installed from Debian's packages where allowed)
	@tests/needs
	@tests/with-rabbitmq $(CARGO) $(TEST_RUNNER) --locked

lint: ## What CI refuses: formatting, warnings, documentation warnings
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

fmt: ## Format the code
	$(CARGO) fmt

deny: ## Licences, bans and sources of all dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

advisories: ## Known vulnerabilities; needs the advisory database, so a machine with internet
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check advisories

demo: ## The main job on this machine: no account, no broker
	$(CARGO) run --locked --release -- demo
