# What builds WebAssembly components of Rust: sets `target`, the commands `cargo` and `flags`, and a PATH that has the linker.
# To be sourced by a bash script.

target=wasm32-unknown-unknown
cargo=(cargo)
flags=()

find_toolchain() {
  if has_target; then
    :
  elif command -v rustup >/dev/null && rustup target add "$target" >/dev/null 2>&1 && has_target; then
    :
  else
    use_debians_compiler
  fi
  use_linker
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

fail() {
  echo "$0: $*" >&2
  exit 1
}
