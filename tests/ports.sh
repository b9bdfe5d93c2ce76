#!/usr/bin/env bash
# What idle serial ports cost: CPU time of a gateway with 16 of them on which nothing comes, and the memory of one more.
#   tests/ports.sh [BINARY] [SECONDS]
set -euo pipefail

main() {
  local binary=${1:-target/release/tidegate} seconds=${2:-30}
  [ -x "$binary" ] || { echo "$binary is missing: run 'make release', or name another" >&2; exit 1; }
  command -v socat >/dev/null || { echo "socat is missing: run 'make tools'" >&2; exit 1; }
  dir=$(mktemp -d)
  # Both are for the trap, which outlives this function.
  pids=()
  trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

  measure "$binary" 0 "$seconds"
  local none_cpu=$cpu none_memory=$memory
  measure "$binary" 16 "$seconds"
  awk -v none="$none_cpu" -v cpu="$cpu" -v a="$none_memory" -v b="$memory" -v s="$seconds" 'BEGIN {
    printf "without a port     %.2f %% of a core, %d KiB of its own\n", none / s * 100, a
    printf "16 idle ports      %.2f %% of a core, %d KiB of its own\n", cpu / s * 100, b
    printf "the ports          %.2f %% of a core (target 0.5), %d KiB each (target 256)\n", (cpu - none) / s * 100, (b - a) / 16
  }'
}

# measure BINARY PORTS SECONDS: sets `cpu` (seconds) and `memory` (KiB of anonymous pages).
measure() {
  local binary=$1 ports=$2 seconds=$3 port names="" pid before
  local site=$dir/$ports
  mkdir "$site"
  {
    echo "[gateway]"
    echo "id = \"gw-ports\""
    echo "state-dir = \"$site/state\""
    echo "[status]"
    echo "listen = \"127.0.0.1:0\""
    for port in $(seq 1 "$ports"); do
      socat "pty,rawer,link=$site/device$port" "pty,rawer,link=$site/instrument$port" &
      pids+=($!)
      echo "[source.port$port]"
      echo "kind = \"serial\""
      echo "device = \"$site/device$port\""
      echo "decode = \"text\""
      names+="\"port$port\", "
    done
    [ -z "$names" ] || printf '[pipeline.all]\nfrom = [%s]\n' "${names%, }"
  } >"$site/tidegate.toml"
  sleep 1
  "$binary" run --config "$site/tidegate.toml" >"$site/log" 2>&1 &
  pid=$!
  pids+=("$pid")
  sleep 10
  before=$(ticks "$pid")
  sleep "$seconds"
  cpu=$(awk -v a="$before" -v b="$(ticks "$pid")" -v hz="$(getconf CLK_TCK)" 'BEGIN { print (b - a) / hz }')
  memory=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status")
  kill "$pid"
  wait "$pid" || { cat "$site/log" >&2; exit 1; }
}

# User and system time of a process, in ticks.
ticks() {
  awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"
}

main "$@"
