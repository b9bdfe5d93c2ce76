#!/usr/bin/env bash
# Builds every module as a WebAssembly component and puts it, with its manifest and its vectors, into
# modules/target/components (test guests: modules/target/test-components), and what the publisher keeps to find lines by into
# modules/target/debug-components. The same sources and compiler give the same
# bytes wherever they lie; a second run touches nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

. ./toolchain.sh

# Guests have a target directory of their own: another target and another profile than the daemon's.
export CARGO_TARGET_DIR="$PWD/target"
# They would take the place of what .cargo/config.toml says.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET

main() {
  find_toolchain

  local modules=(*/manifest.json) guests=(test-guests/*/manifest.json)
  modules=("${modules[@]%/manifest.json}")
  guests=("${guests[@]%/manifest.json}")

  local packages=() module
  for module in "${modules[@]}" "${guests[@]}" preset; do
    packages+=(--package "${module##*/}")
  done
  # No path of this machine may stand in a component.
  local registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
  local remap="--remap-path-prefix=$registry=registry', '--remap-path-prefix=$PWD=modules"
  "${cargo[@]}" build --quiet --locked --release --target "$target" "${flags[@]}" \
    --config "target.$target.rustflags=['$remap']" "${packages[@]}"
  "${cargo[@]}" build --quiet --locked --package pack

  mkdir -p target/composed target/simd-components
  # Two components that are one filter, for tests.
  "${cargo[@]}" build --quiet --locked --package compose
  target/debug/compose "target/$target/release/range.wasm" "target/$target/release/preset.wasm" \
    target/composed/range-preset.wasm
  # The same filter with vector instructions, for machines that have them: the daemon's build takes its pick.
  "${cargo[@]}" build --quiet --locked --release --target "$target" "${flags[@]}" \
    --config "target.$target.rustflags=['$remap']" --package classify --features classify/simd
  target/debug/pack "target/$target/release/classify.wasm" classify target/simd-components >/dev/null
  "${cargo[@]}" build --quiet --locked --release --target "$target" "${flags[@]}" \
    --config "target.$target.rustflags=['$remap']" --package classify

  collect target/components "${modules[@]}"
  collect target/test-components "${guests[@]}" >/dev/null
}

# collect FOLDER MODULE…: checks and puts down every module, and takes away what none of them put there.
collect() {
  local folder=$1 module file keep=" "
  shift
  mkdir -p "$folder"
  for module in "$@"; do
    local name=${module##*/}
    target/debug/pack "target/$target/release/${name//-/_}.wasm" "$module" "$folder"
    keep+="$name.wasm $name.json $name.vectors.json "
  done
  for file in "$folder"/*; do
    [[ $keep == *" ${file##*/} "* ]] || rm -r "$file"
  done
}

main "$@"
