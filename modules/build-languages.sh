#!/usr/bin/env bash
# Builds the filters that are written in other languages than Rust into modules/target/languages: `build-languages.sh
# [c] [js] [python]`, all of them by default. Pinned tools come from npm and PyPI, the rest has to be there; what is missing
# is named and ends the build.
#
# `build-languages.sh --bindings` writes the C bindings anew after a change of the contract.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

. ./toolchain.sh
. c/sdk/compile.sh
. js/sdk/componentize.sh
. python/sdk/componentize.sh

wit=0.2.0
out=$PWD/target/languages

main() {
  if [ "${1:-}" = --bindings ]; then
    rm -f c/sdk/bindings/*
    CARGO_TARGET_DIR=target cargo run --quiet --locked --package c-bindings -- "wit/$wit" filter c/sdk/bindings
    return
  fi
  mkdir -p "$out"
  [ $# -gt 0 ] || set -- c js python
  local language
  for language in "$@"; do
    case $language in
      c | js | python) ;;
      *) fail "there is no filter in \`$language\`: c, js and python are there" ;;
    esac
    "build_$language"
    collect "$language"
  done
}

build_c() {
  compile_c "$out/deadband-c.wasm" c/deadband/deadband.c
}

build_js() {
  local work
  work=$(mktemp -d)
  # What a filter imports has to lie below it.
  cp js/deadband/*.js js/sdk/tidegate.js "$work"
  contract js "$work"
  componentize_js "$out/deadband-js.wasm" "$work/deadband.js" "$work/wit" module
  rm -r "$work"
}

build_python() {
  local work
  work=$(mktemp -d)
  cp python/deadband/*.py "$work"
  contract python "$work"
  componentize_python "$out/deadband-python.wasm" "$work" deadband "$work/wit" module
  rm -r "$work"
}

# contract LANGUAGE FOLDER: the filter's world with the contract that it imports from.
contract() {
  mkdir -p "$2/wit/deps/tidegate"
  cp "$1/deadband/wit/world.wit" "$2/wit/"
  cp "wit/$wit/module.wit" "$2/wit/deps/tidegate/"
}

# Every language has the vectors of the filter in Rust.
collect() {
  cp "$1/deadband/manifest.json" "$out/deadband-$1.json"
  cp deadband/vectors.json "$out/deadband.vectors.json"
  echo "deadband-$1 $(wc -c <"$out/deadband-$1.wasm") bytes"
}

main "$@"
