#!/bin/sh
# The compiler as cargo calls it for the fuzz targets (RUSTC_WRAPPER): what is under test counts its edges and comparisons for
# libFuzzer, and nothing else does: libFuzzer reads all counters after every input, and a macro's library cannot have any. These are the flags of cargo-fuzz, on any
# compiler: none of them needs a nightly one.
rustc=$1
shift
crate=
before=
for argument; do
  [ "$before" = --crate-name ] && crate=$argument
  before=$argument
done
case $crate in
  tidegate_* | cbor | formats | homeassistant | nmea | senml | sparkplug) ;;
  *) exec "$rustc" "$@" ;;
esac
exec "$rustc" "$@" -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares \
  -Cllvm-args=-simplifycfg-branch-fold-threshold=0
