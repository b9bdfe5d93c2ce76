#!/usr/bin/env bash
# Builds every module as a WebAssembly component and puts it, with its manifest and its vectors, into
# modules/target/components (test guests: modules/target/test-components). The same sources and compiler give the same
# bytes wherever they lie; a second run touches nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

target=wasm32-unknown-unknown
# Guests have a target directory of their own: another target and another profile than the daemon's.
export CARGO_TARGET_DIR="$PWD/target"
# They would take the place of what .cargo/config.toml says.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET

main() {
  local cargo=(cargo)
  local flags=()
  if has_target; then
    :
  elif command -v rustup >/dev/null && rustup target add "$target" >/dev/null 2>&1 && has_target; then
    :
  else
    use_debians_compiler
  fi
  use_linker

  local modules=(*/manifest.json) guests=(test-guests/*/manifest.json)
  modules=("${modules[@]%/manifest.json}")
  guests=("${guests[@]%/manifest.json}")

  local packages=() module
  for module in "${modules[@]}" "${guests[@]}"; do
    packages+=(--package "${module##*/}")
  done
  # No path of this machine may stand in a component.
  local registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
  local remap="--remap-path-prefix=$registry=registry', '--remap-path-prefix=$PWD=modules"
  "${cargo[@]}" build --quiet --locked --release --target "$target" "${flags[@]}" \
    --config "target.$target.rustflags=['$remap']" "${packages[@]}"
  "${cargo[@]}" build --quiet --locked --package pack

  collect target/components "${modules[@]}"
  collect target/test-components "${guests[@]}" >/dev/null
}

has_target() {
  [ -d "$(rustc --print target-libdir --target "$target")" ]
}

# Where the target's standard library cannot be fetched: Debian's compiler builds it from its own sources.
use_debians_compiler() {
  # rust-web-llvm has wasm-component-ld, lld-22 is the linker that it calls.
  local packages=(rustc-web cargo-web rust-web-src rust-web-llvm lld-22) package missing=()
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
      fail "the Rust target $target is missing: run 'rustup target add $target', or where that is not possible" \
        "'sudo apt-get install ${missing[*]}', and try again"
    fi
    echo "installing ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
  # rust-toolchain.toml speaks to rustup alone; these are the compilers themselves.
  export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
  cargo=(/usr/bin/cargo)
  flags=(-Zbuild-std=std,panic_abort)
}

# wasm-component-ld wraps wasm-ld, and makes a component of what that links. Rust's own toolchain has both.
use_linker() {
  local tool tools
  for tool in "$(rustc_sysroot)"/lib/rustlib/*/bin/wasm-component-ld \
    "${RUSTUP_HOME:-$HOME/.rustup}"/toolchains/*/lib/rustlib/*/bin/wasm-component-ld; do
    if [ -x "$tool" ]; then
      tools=$(dirname "$tool")
      export PATH="$tools:$tools/gcc-ld:$PATH"
      break
    fi
  done
  command -v wasm-component-ld >/dev/null ||
    fail "the linker wasm-component-ld is missing, which comes with rustup's toolchains: run" \
      "'cargo install wasm-component-ld@0.5.31' and try again"
  command -v wasm-ld >/dev/null || command -v rust-lld >/dev/null ||
    fail "the linker wasm-ld is missing: run 'apt-get install lld-22' and try again"
}

rustc_sysroot() {
  "${RUSTC:-rustc}" --print sysroot
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

fail() {
  echo "modules/build.sh: $*" >&2
  exit 1
}

main "$@"
