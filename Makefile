# The front door. `make demo` and `make test` are all that a newcomer needs; both install what they use.
.DEFAULT_GOAL := help
.PHONY: help demo test aot faults fleet fuzz soak lint bench bench-filters bench-languages bench-ports modules modules-languages portability release clean tools rust

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

demo: modules ## build everything and run the main job on simulated sensors for 30 s
	cargo run --quiet --locked -- demo --for 30s

test: lint modules aot tools ## everything that continuous integration runs
	cd modules && CARGO_TARGET_DIR=target cargo test --quiet --locked --workspace
	cargo test --locked --workspace --features test-faults

aot: modules ## every shipped module compiled as for plain riscv64gc and aarch64, with the daemon's settings
	cd cross/aot && CARGO_TARGET_DIR=../../target/aot cargo test --quiet --locked
	cd cross/aot && CARGO_TARGET_DIR=../../target/aot cargo run --quiet --locked -- ../../modules/target/components ../../modules/target/simd-components

faults: modules tools ## kills, power cuts, bad disks, lines and clocks, each many times over: under an hour; SEED=… CASES=kill:17
	cargo test --locked --features test-faults --test faults-all

fuzz: modules ## libFuzzer on every target for FUZZ_SECONDS (60), then a hundred times the mutations of `make test`, 30,000 components
	@tests/need.sh g++:g++
	tests/fuzz/run.sh
	TIDEGATE_FUZZ=100 cargo test --locked --workspace --features test-faults -- fuzz::
	cd modules && TIDEGATE_FUZZ=100 CARGO_TARGET_DIR=target cargo test --quiet --locked --workspace -- harm_nobody harms_nobody

soak: ## a three-week outage, compressed: 20 million readings and 500 alarms into 64 MiB; minutes
	cargo bench --locked -p tidegate-store --bench outage

fleet: rust ## 100,000 gateways in virtual time: how far a bad release gets, how fast a good one, what the repository bears; minutes; SEED=…
	cargo bench --locked -p tidegate-domain --bench fleet

lint: modules ## formatting and lints, no warning allowed
	cargo fmt --all --check
	cd modules && cargo fmt --all --check
	cd cross/aot && cargo fmt --check
	cd modules && CARGO_TARGET_DIR=target cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	cargo clippy --quiet --locked --workspace --all-targets --features test-faults -- -D warnings

bench: modules tools ## ratio to a bare client, CPU, memory, bytes written: minutes, not part of `make test`
	cargo bench --locked --bench main_job

modules-languages: modules ## the filters in C, JavaScript and Python, with their tests; fetches tools from npm and PyPI
	@tests/need.sh clang:clang lld:wasm-ld
	modules/build-languages.sh
	modules/classify/train.py --check
	cargo test --locked --workspace --features test-faults --test languages -- --include-ignored

portability: modules ## the factory modules under another host, jco on V8, with the same vectors
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or later (apt-get install nodejs npm) and try again" >&2; exit 1; }
	@tests/need.sh clang:clang lld:wasm-ld
	modules/build-languages.sh c
	cd tests/portability && npm ci --silent --no-audit --no-fund
	node tests/portability/run.mjs modules/target/components/*.wasm modules/target/simd-components/*.wasm modules/target/languages/deadband-c.wasm

bench-filters: modules ## what filters cost: stage, instance, load, memory, state, swaps, neighbours; beside the targets
	cargo bench --locked --bench filters

bench-ports: release tools ## CPU and memory of 16 idle serial ports
	tests/ports.sh

bench-languages: modules modules-languages ## the same filter in every language: size, compilation, instance, reading
	cargo bench --locked --bench languages

modules: rust ## the factory modules as WebAssembly components
	modules/build.sh

release: modules ## the optimised binary
	cargo build --release --locked
	@! grep -q TIDEGATE_TEST_FAULTS target/release/tidegate

tools: ## what tests need of Debian: mosquitto, socat, mbpoll, what makes disks, lines and clocks fail; and of PyPI: python-tuf, pymodbus
	tests/need.sh mosquitto:mosquitto mosquitto-clients:mosquitto_pub openssl:openssl socat:socat mbpoll:mbpoll zstd:zstd python3:python3
	tests/tuf.sh
	tests/modbus.sh
	tests/need.sh strace:strace faketime:faketime e2fsprogs:mkfs.ext4 mount:mount nftables:nft || [ "$$ALLOW_MISSING" = 1 ]

rust: ## what compiling needs
	@command -v cargo >/dev/null || { echo "cargo is missing: install it from https://rustup.rs and try again" >&2; exit 1; }
	@tests/need.sh gcc:gcc

clean: ## remove what was built
	cargo clean
	rm -rf modules/target
