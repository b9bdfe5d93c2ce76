#!/usr/bin/env bash
# Builds the module into out/: the component, its manifest and its vectors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

. ./toolchain.sh
. sdk/compile.sh

mkdir -p out
compile_c "out/{{name}}.wasm" filter.c
cp manifest.json "out/{{name}}.json"
cp vectors.json out/vectors.json
echo "out/{{name}}.wasm: $(wc -c <"out/{{name}}.wasm") bytes"
