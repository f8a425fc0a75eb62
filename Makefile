# What people and CI call. `make test` sets up what the tests need, where it may.
CARGO ?= cargo
TEST_RUNNER := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo "nextest run" || echo test)

# How the tables of `make chaos`, `make pace` and `make bench` say that they were made.
GIVEN := $(if $(SHORT), SHORT=$(SHORT))$(if $(FULL), FULL=$(FULL))$(if $(BROKER), BROKER=$(BROKER))$(if $(BESIDE), BESIDE=$(BESIDE))$(if $(ONLY), ONLY="$(ONLY)")

.PHONY: help test lint chaos pace bench cost fmt deny advisories demo screenshot

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

test: ## All tests, against a private RabbitMQ on loopback (installed from Debian's packages where allowed)
	@tests/needs
	@tests/deploy-tools
	@tests/with-rabbitmq $(CARGO) $(TEST_RUNNER) --locked

lint: ## What CI refuses: formatting, warnings, documentation warnings
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --features crash-points --lib --test chaos -- -D warnings
	$(CARGO) clippy --locked --features bench --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

fmt: ## Format the code
	$(CARGO) fmt

chaos: ## The promises tried by force, a table of what came of it; SHORT=1 for the form of CI, CONTRIBUTING.md has the rest
	@tests/needs
	@chroot=$${RABBITMQ_CHROOT:-}; $(if $(BROKER),chroot=$$(tests/rabbitmq-chroot $(BROKER)) &&) \
		RABBITMQ_CHROOT=$$chroot CHAOS_COMMAND='make chaos$(GIVEN)' tests/with-rabbitmq \
		$(CARGO) test --locked --quiet --features crash-points --test chaos -- \
		$(if $(SHORT),--short) $(if $(ONLY),--only "$(ONLY)") \
		$(if $(BESIDE),--beside target/chaos/table-$(BESIDE).json) --table target/chaos/table$(if $(BROKER),-$(BROKER)).md

# The short form leaves the fastest number out, which a build without optimisation cannot keep up with.
pace: ## One rate for each number, whoever sends, measured; SHORT=1 for the form of CI, CONTRIBUTING.md has the rest
	@tests/needs
	@chroot=$${RABBITMQ_CHROOT:-}; $(if $(BROKER),chroot=$$(tests/rabbitmq-chroot $(BROKER)) &&) \
		RABBITMQ_CHROOT=$$chroot PACE_COMMAND='make pace$(GIVEN)' tests/with-rabbitmq \
		$(CARGO) test --locked --quiet $(if $(SHORT),,--release) --test pace -- \
		$(if $(SHORT),--short) $(if $(ONLY),--only "$(ONLY)") --table target/pace/table$(if $(BROKER),-$(BROKER)).md

# The page in docs/ is of the whole thing alone. Built as a release is: without what tests switch on in crates.
bench: ## Speed and cost beside a bare loop, into docs/performance.md; SHORT=1 for a quick form, CONTRIBUTING.md has the rest
	@tests/needs
	$(CARGO) build --locked --release --features bench --bins
	@chroot=$${RABBITMQ_CHROOT:-}; $(if $(BROKER),chroot=$$(tests/rabbitmq-chroot $(BROKER)) &&) \
		RABBITMQ_CHROOT=$$chroot $${CARGO_TARGET_DIR:-target}/release/bench --command 'make bench$(GIVEN)' \
		$(if $(SHORT),--short) $(if $(FULL),--full) $(if $(ONLY),--only "$(ONLY)") \
		--page $(if $(SHORT)$(ONLY)$(BROKER),target/bench/performance.md,docs/performance.md)

cost: ## Instructions a job beside the recorded ones, failing where they grew by more than 10%; ACCEPT=1 records them anew
	@tests/needs
	$(CARGO) build --locked --profile cost --features bench --bin chakra-sender --bin bench
	@$${CARGO_TARGET_DIR:-target}/cost/bench $(if $(ONLY),--only "$(ONLY)") \
		cost --record benches/cost.toml $(if $(ACCEPT),--accept)

deny: ## Licences, bans and sources of all dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

advisories: ## Known vulnerabilities; needs the advisory database, so a machine with internet
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check advisories

demo: ## The main job on this machine: no account, no broker
	$(CARGO) run --locked --release -- demo

screenshot: ## The picture of the status page in docs/images, of a real worker in Chromium
	@tests/needs
	@tests/with-rabbitmq $(CARGO) test --locked --quiet --test it -- --ignored --exact status_page::a_picture_for_the_documentation
