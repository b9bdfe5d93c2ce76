#!/usr/bin/env bash
# Makes sure that programs are there: tests/need.sh PACKAGE:PROGRAM …
# Debian packages are installed when we are root; otherwise the message names the command to run.
set -euo pipefail

missing=()
for pair in "$@"; do
  program=${pair#*:}
  # /usr/sbin holds mosquitto and is not on every user's PATH.
  PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("${pair%%:*}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "missing Debian packages: run 'sudo apt-get install ${missing[*]}' and try again" >&2
  exit 1
fi
echo "installing ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
