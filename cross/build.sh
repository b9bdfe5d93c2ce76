#!/usr/bin/env bash
# Builds the release binary for another architecture: cross/build.sh TARGET
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:?usage: cross/build.sh aarch64-unknown-linux-gnu|riscv64gc-unknown-linux-gnu}
case $target in
  aarch64-unknown-linux-gnu) gnu=aarch64-linux-gnu ;;
  riscv64gc-unknown-linux-gnu) gnu=riscv64-linux-gnu ;;
  *) echo "no cross build for $target: see cross/README.md" >&2; exit 2 ;;
esac

tests/need.sh "gcc-$gnu:$gnu-gcc" "g++-$gnu:$gnu-g++"
name=${target//-/_}
export "CC_$name=$gnu-gcc" "CXX_$name=$gnu-g++" "CARGO_TARGET_${name^^}_LINKER=$gnu-gcc"

if rustup target add "$target" 2>/dev/null; then
  cargo build --release --locked --no-default-features --target "$target"
else
  echo "rustup has no $target to give: building the standard library with Debian's cargo"
  tests/need.sh rustc-web:/usr/bin/rustc cargo-web:/usr/bin/cargo rust-web-src:/usr/lib/rust-web-src
  PATH="/usr/bin:$PATH" RUSTC_BOOTSTRAP=1 /usr/bin/cargo build --release --locked --no-default-features \
    -Zbuild-std=std,panic_unwind --target "$target"
fi
ls -l "${CARGO_TARGET_DIR:-target}/$target/release/tidegate"
