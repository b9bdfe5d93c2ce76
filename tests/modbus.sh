#!/usr/bin/env bash
# Puts pymodbus into target/modbus, once for each version of tests/modbus.txt. Seconds the first time, nothing after.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=target/modbus
cmp -s tests/modbus.txt "$venv/requirements.txt" && exit 0
rm -rf "$venv"
python3 -c "import ensurepip" 2>/dev/null || [ "$(id -u)" -ne 0 ] ||
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; }
python3 -m venv "$venv" || { echo "python3 has no venv: run 'apt-get install python3-venv' and try again" >&2; exit 1; }
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r tests/modbus.txt ||
  { echo "pip cannot fetch what tests/modbus.txt names: see above" >&2; exit 1; }
cp tests/modbus.txt "$venv/requirements.txt"
