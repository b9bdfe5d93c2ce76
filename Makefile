# The front door. `make demo` and `make test` are all that a newcomer needs; both install what they use.
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench modules release clean tools rust

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

demo: modules ## build everything and run the main job on simulated sensors for 30 s
	cargo run --quiet --locked -- demo --for 30s

test: lint modules tools ## everything that continuous integration runs
	cd modules && CARGO_TARGET_DIR=target cargo test --quiet --locked --workspace
	cargo test --locked --workspace --features test-faults

lint: modules ## formatting and lints, no warning allowed
	cargo fmt --all --check
	cd modules && cargo fmt --all --check
	cd modules && CARGO_TARGET_DIR=target cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	cargo clippy --quiet --locked --workspace --all-targets --features test-faults -- -D warnings

bench: modules tools ## ratio to a bare client, CPU, memory, bytes written: minutes, not part of `make test`
	cargo bench --locked --bench main_job

modules: rust ## the factory modules as WebAssembly components
	modules/build.sh

release: modules ## the optimised binary
	cargo build --release --locked

tools: ## Debian's mosquitto and its clients
	tests/need.sh mosquitto:mosquitto mosquitto-clients:mosquitto_pub

rust: ## what compiling needs
	@command -v cargo >/dev/null || { echo "cargo is missing: install it from https://rustup.rs and try again" >&2; exit 1; }
	@tests/need.sh gcc:gcc

clean: ## remove what was built
	cargo clean
	rm -rf modules/target
