#!/usr/bin/env bash
# Builds the module into out/: the component, its manifest and its vectors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

. ./toolchain.sh

export CARGO_TARGET_DIR="$PWD/target"
# They would take the place of what .cargo/config.toml says.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET

find_toolchain
"${cargo[@]}" build --release --target "$target" "${flags[@]}"
mkdir -p out
cp "target/$target/release/module.wasm" "out/{{name}}.wasm"
cp manifest.json "out/{{name}}.json"
cp vectors.json out/vectors.json
echo "out/{{name}}.wasm: $(wc -c <"out/{{name}}.wasm") bytes"
