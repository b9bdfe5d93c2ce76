#!/usr/bin/env bash
# run.sh [TARGET…]         libFuzzer on every target, or on these, FUZZ_SECONDS (60) each, beginning with the kept corpus; what it
#                          learns goes to target/corpus, what does harm to target/artifacts
# run.sh --keep [TARGET…]  makes the kept corpus the smallest one with the same coverage as all that was learnt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

main() {
  local keep=
  if [[ ${1-} == --keep ]]; then
    keep=1
    shift
  fi
  RUSTC_WRAPPER=$PWD/rustc.sh CARGO_TARGET_DIR=$PWD/target cargo build --quiet --locked

  local targets=("$@") target failed=()
  if [[ ${#targets[@]} == 0 ]]; then
    targets=(targets/*.rs)
    targets=("${targets[@]##*/}")
    targets=("${targets[@]%.rs}")
  fi
  for target in "${targets[@]}"; do
    mkdir -p "target/corpus/$target" "target/artifacts/$target" "corpus/$target"
    if [[ $keep ]]; then
      keep "$target"
    else
      fuzz "$target" || failed+=("$target")
    fi
  done
  if [[ ${#failed[@]} != 0 ]]; then
    echo "harm was done to ${failed[*]}: tests/fuzz/target/artifacts has the inputs; mend it, and keep them in tests/fuzz/corpus" >&2
    exit 1
  fi
}

fuzz() {
  local target=$1 log=target/artifacts/$1.log
  # A guest may use 50 ms of CPU time a call, and a batch two deadlines: 30 s is a hang.
  if ! target/debug/"$target" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=30 -rss_limit_mb=2048 -len_control=20 \
    -print_final_stats=1 -artifact_prefix="target/artifacts/$target/" "target/corpus/$target" "corpus/$target" >"$log" 2>&1; then
    tail -n 40 "$log"
    return 1
  fi
  echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $(grep -o 'cov: [0-9]*' "$log" | tail -n 1)"
}

keep() {
  local target=$1 kept=target/kept/$1
  rm -rf "$kept"
  mkdir -p "$kept"
  target/debug/"$target" -set_cover_merge=1 "$kept" "corpus/$target" "target/corpus/$target" 2>/dev/null
  rm -rf "corpus/$target"
  cp -r "$kept" "corpus/$target"
  echo "$target: $(find "corpus/$target" -type f | wc -l) files"
}

main "$@"
