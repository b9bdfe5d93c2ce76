#!/usr/bin/env bash
# Builds the module into out/: the component, its manifest and its vectors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  echo "$0: $*" >&2
  exit 1
}
. sdk/componentize.sh

mkdir -p out
componentize_python "$PWD/out/{{name}}.wasm" "$PWD" filter "$PWD/wit" module
cp manifest.json "out/{{name}}.json"
cp vectors.json out/vectors.json
echo "out/{{name}}.wasm: $(wc -c <"out/{{name}}.wasm") bytes"
