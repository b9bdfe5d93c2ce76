// Deadband: a value goes on when it differs enough from the last one that went on. The same as modules/deadband, to the
// bytes of its state.

import { number } from 'tidegate:module/settings@0.2.0';
import { load, store } from 'tidegate:module/series-state@0.2.0';
import { BOOL, Fault, FLOAT as DOUBLE, filter, INT as INTEGER } from './tidegate.js';

// A record: a layout's number, so that it is never all zeros; time, bits, kind and quality of the last reading of a series
// that went on. Little-endian, without gaps.
const WIDTH = 19;
const LAYOUT = 1;
// Truth values, texts and numbers that are not finite: these are equal or not.
const FLOAT = 0;
const INT = 1;
const OTHER = 2;

// Spreads every bit over all others, reversibly. Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014.
function mix(bits) {
  bits = BigInt.asUintN(64, bits + 0x9e3779b97f4a7c15n);
  bits = BigInt.asUintN(64, (bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n);
  bits = BigInt.asUintN(64, (bits ^ (bits >> 27n)) * 0x94d049bb133111ebn);
  return bits ^ (bits >> 31n);
}

// FNV-1a, 64 bits. Source: Fowler, Noll and Vo, draft-eastlake-fnv.
function fnv(text) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x0100000001b3n);
  }
  return hash;
}

// 64 bits that stand for what is no number.
function fingerprint(batch, row) {
  const bits = batch.bits[row];
  switch (batch.kind[row]) {
    case DOUBLE: return Number.isNaN(batch.floats[row]) ? mix(1n) : mix(mix(2n) ^ bits);
    case BOOL: return mix(mix(4n) ^ bits);
    default: return mix(mix(5n) ^ fnv(batch.texts[Number(bits)]));
  }
}

const apart = (a, b) => (a > b ? a - b : b - a);

function deadband(batch, out) {
  const width = number('width');
  const percent = number('percent');
  if ((width === undefined) === (percent === undefined)) {
    throw new Fault('one of `width` and `percent` is needed, and not both');
  }
  const seconds = number('max-silence');
  const silence = seconds === undefined ? undefined : BigInt(Math.trunc(Math.min(seconds * 1e9, 2 ** 64)));

  const column = load();
  if (column.length !== batch.names.length * WIDTH) {
    throw new Fault("the manifest's `state.series.width` is not that of the filter's record");
  }
  const state = new DataView(column.buffer, column.byteOffset, column.length);
  let changed = false;
  for (let row = 0; row < batch.length; row++) {
    const record = batch.series[row] * WIDTH;
    const value = batch.number(row);
    let kind = OTHER;
    let bits;
    if (value === undefined) {
      bits = fingerprint(batch, row);
    } else {
      kind = batch.kind[row] === INTEGER ? INT : FLOAT;
      bits = batch.bits[row];
    }
    let passes = state.getUint8(record) !== LAYOUT || state.getUint8(record + 18) !== batch.quality[row];
    if (!passes) {
      const lastKind = state.getUint8(record + 17);
      if (kind === OTHER || lastKind === OTHER) {
        passes = kind !== lastKind || bits !== state.getBigUint64(record + 9, true);
      } else {
        const last = lastKind === INT ? Number(state.getBigInt64(record + 9, true)) : state.getFloat64(record + 9, true);
        // Exact for counters beyond 2^53, whose doubles may be equal.
        const distance =
          kind === INT && lastKind === INT
            ? Number(apart(batch.integers[row], state.getBigInt64(record + 9, true)))
            : Math.abs(value - last);
        passes = distance > (percent === undefined ? width : (Math.abs(last) * percent) / 100);
      }
    }
    // A reading far in the past counts as well: otherwise a single time stamp in the future would keep the series silent
    // until then.
    if (!passes && silence !== undefined) {
      passes = apart(batch.time[row], state.getBigInt64(record + 1, true)) >= silence;
    }
    if (!passes) {
      out.drop(row);
      continue;
    }
    state.setUint8(record, LAYOUT);
    state.setBigInt64(record + 1, batch.time[row], true);
    state.setBigUint64(record + 9, bits, true);
    state.setUint8(record + 17, kind);
    state.setUint8(record + 18, batch.quality[row]);
    changed = true;
  }
  if (changed) {
    store(column);
  }
}

export const process = filter(deadband);
