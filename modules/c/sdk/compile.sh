# Compiles a filter in C to a component. To be sourced by a bash script, behind toolchain.sh: compile_c TARGET.wasm SOURCE.c…

c_sdk=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

compile_c() {
  local target=$1 objects source number=0
  shift
  command -v clang >/dev/null ||
    fail "clang is missing: run 'apt-get install clang lld', or take LLVM 14 or later from elsewhere, and try again"
  use_linker
  objects=$(mktemp -d)
  for source in "$@" "$c_sdk/runtime.c" "$c_sdk"/bindings/*.c; do
    # Sources of several folders may have one name.
    number=$((number + 1))
    # No library, and no copies of constant length as one instruction: the gateway's compiler fails on them for riscv64.
    clang --target=wasm32-unknown-unknown -std=c11 -Os -ffreestanding -fno-builtin -mno-bulk-memory \
      -Wall -Wextra -Werror -I"$c_sdk" -I"$c_sdk/include" -c "$source" -o "$objects/$number.o"
  done
  wasm-component-ld --no-entry --strip-all -zstack-size=65536 --initial-memory=524288 "$objects"/*.o -o "$target"
  rm -r "$objects"
}
