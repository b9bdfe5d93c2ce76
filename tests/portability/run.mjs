// Runs components with their golden vectors under another host than the daemon's: jco lowers and lifts, V8 runs the code.
// Neither shares a line with wasmtime, so that what passes here and there keeps to the component model, not to one engine.
//
//     node run.mjs COMPONENT.wasm …      each with its manifest, <name>.json, and the vectors that it names beside it

import { createHmac } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { transpileBytes } from '@bytecodealliance/jco-transpile';

const FLOAT = 0, INT = 1, BOOL = 2, TEXT = 3;
const QUALITY = ['good', 'uncertain', 'bad'];
// How far apart equal floats may be, relative to the expected one; as in the daemon.
const TOLERANCE = 1e-9;

// Where the texts of numbers count: 1 is an integer and 1.0 a float, and times are longer than a double.
class Written {
  constructor(text) { this.text = text; }
}

function parseVectors(text) {
  const marked = text.replace(/("(?:value|time|now)":\s*)(-?[0-9][^,}\s]*)/g, '$1{"written":"$2"}');
  return JSON.parse(marked, (key, value) => (value && value.written !== undefined ? new Written(value.written) : value));
}

const integer = (written) => BigInt(written?.text ?? 0);

// A value of the vectors as kind and what it holds.
function value(json) {
  if (json instanceof Written) {
    return /[.eE]/.test(json.text) ? [FLOAT, Number(json.text)] : [INT, BigInt(json.text)];
  }
  if (json === null) return [FLOAT, NaN];
  return typeof json === 'boolean' ? [BOOL, json] : [TEXT, json];
}

const words = new DataView(new ArrayBuffer(8));
function bitsOf(number) {
  words.setFloat64(0, number);
  return words.getBigUint64(0);
}
function floatOf(bits) {
  words.setBigUint64(0, bits);
  return words.getFloat64(0);
}

// Readings as columns.
function toBatch(readings) {
  const names = [], texts = [], kinds = [], bits = [], series = [];
  for (const reading of readings) {
    let index = names.indexOf(reading.series);
    if (index < 0) index = names.push(reading.series) - 1;
    series.push(index);
    const [kind, held] = value(reading.value);
    kinds.push(kind);
    if (kind === FLOAT) bits.push(bitsOf(held));
    else if (kind === INT) bits.push(BigInt.asUintN(64, held));
    else if (kind === BOOL) bits.push(held ? 1n : 0n);
    else bits.push(BigInt(texts.push(held) - 1));
  }
  const quality = readings.map(({ quality, value }) => QUALITY.indexOf(quality ?? (value === null ? 'bad' : 'good')));
  return {
    names,
    series: Uint32Array.from(series),
    time: BigInt64Array.from(readings, (reading) => integer(reading.time)),
    kind: Uint8Array.from(kinds),
    bits: BigUint64Array.from(bits),
    texts,
    quality: Uint8Array.from(quality),
  };
}

// Columns as readings: [series, time, kind, value, quality].
function fromBatch(batch) {
  return Array.from(batch.series, (name, row) => {
    const kind = batch.kind[row];
    const bits = BigInt.asUintN(64, batch.bits[row]);
    const held = [() => floatOf(bits), () => BigInt.asIntN(64, bits), () => bits === 1n, () => batch.texts[Number(bits)]][kind]();
    return [batch.names[name], batch.time[row], kind, held, batch.quality[row]];
  });
}

function same(got, expected) {
  const [kind, held] = value(expected.value);
  const quality = QUALITY.indexOf(expected.quality ?? (expected.value === null ? 'bad' : 'good'));
  if (got[0] !== expected.series || got[1] !== integer(expected.time) || got[2] !== kind || got[4] !== quality) return false;
  if (kind !== FLOAT) return got[3] === held;
  if (Number.isNaN(held)) return !Number.isFinite(got[3]);
  return Object.is(got[3], held) || Math.abs(got[3] - held) <= TOLERANCE * Math.max(Math.abs(held), 1);
}

// What a slot is to its module: settings, secrets, state, clock and alarms of one vector.
class Slot {
  constructor(manifest, vector) {
    this.width = manifest.state?.series?.width ?? 0;
    this.settings = vector.settings ?? {};
    this.secrets = vector.secrets ?? {};
    this.records = new Map();
    this.entries = new Map();
  }

  // The series that a record is kept for, of whom a tick is told.
  series() {
    const kept = [...this.records].filter(([, record]) => record.some((byte) => byte !== 0));
    return kept.map(([name]) => name).sort();
  }

  // Before a call about these series; what it stages counts only if it succeeds.
  begin(names, now) {
    this.names = names;
    this.now = now;
    this.alarms = [];
    this.staged = undefined;
  }

  setting(key, type) {
    let found = this.settings;
    for (const member of key.split('.')) found = found?.[member];
    return typeof found === type ? found : undefined;
  }

  list(key, type) {
    let found = this.settings;
    for (const member of key.split('.')) found = found?.[member];
    return Array.isArray(found) && found.every((one) => typeof one === type) ? found : [];
  }

  load() {
    const column = new Uint8Array(this.names.length * this.width);
    this.names.forEach((name, index) => column.set(this.records.get(name) ?? [], index * this.width));
    return column;
  }

  commit() {
    this.names.forEach((name, index) => {
      if (this.staged) this.records.set(name, this.staged.slice(index * this.width, (index + 1) * this.width));
    });
  }

  imports() {
    const slot = this;
    const log = () => {};
    return {
      types: {},
      settings: {
        number: (key) => slot.setting(key, 'number'),
        integer: (key) => {
          const found = slot.setting(key, 'number');
          return Number.isInteger(found) ? BigInt(found) : undefined;
        },
        boolean: (key) => slot.setting(key, 'boolean'),
        text: (key) => slot.setting(key, 'string'),
        numbers: (key) => Float64Array.from(slot.list(key, 'number')),
        texts: (key) => slot.list(key, 'string'),
        json: () => JSON.stringify(slot.settings),
      },
      secrets: {
        hmacSha256: (name, data) => {
          if (!(name in slot.secrets)) throw `there is no secret ${name}`;
          return new Uint8Array(createHmac('sha256', slot.secrets[name]).update(data).digest());
        },
      },
      clock: { now: () => slot.now },
      log: { write: log },
      metrics: { count: log, gauge: log },
      'series-state': { load: () => slot.load(), store: (records) => { slot.staged = Uint8Array.from(records); } },
      'global-state': {
        get: (key) => slot.entries.get(key),
        set: (key, bytes) => { slot.entries.set(key, bytes); },
        delete: (key) => { slot.entries.delete(key); },
      },
      alarm: {
        raise: (row, severity, code) => slot.alarms.push({ row, code, state: 'raised', severity }),
        clear: (row, code) => slot.alarms.push({ row, code, state: 'cleared' }),
      },
    };
  }
}

// Messages as columns. A payload is `text`, `hex` (blanks in it mean nothing) or `json`.
function toMessages(messages) {
  const topics = [...new Set(messages.map(({ topic }) => topic))];
  const payloads = messages.map(({ text, hex, json }) =>
    hex !== undefined ? Buffer.from(hex.replace(/\s/g, ''), 'hex') : Buffer.from(text ?? JSON.stringify(json)));
  let end = 0;
  return {
    topics,
    topic: Uint32Array.from(messages, ({ topic }) => topics.indexOf(topic)),
    time: BigInt64Array.from(messages, ({ time }) => integer(time)),
    ends: Uint32Array.from(payloads, (payload) => (end += payload.length)),
    data: new Uint8Array(Buffer.concat(payloads)),
  };
}

// What an answer makes of messages: rows of those that are undecoded do not count.
function decoded({ rows, ends, undecoded, notes }) {
  const reasons = new Map();
  for (const { message, reason } of undecoded) if (!reasons.has(message)) reasons.set(message, reason);
  const all = fromBatch(rows);
  const stored = Array.from(ends).flatMap((end, message) => (reasons.has(message) ? [] : all.slice(message === 0 ? 0 : ends[message - 1], end)));
  return { stored, undecoded: [...reasons].sort(([a], [b]) => a - b), notes };
}

// Everything in which a decoder's step is not what was expected.
function problemsOfDecoder(step, slot, call) {
  const expect = step.expect ?? {};
  const found = [];
  slot.now = step.messages.map(({ time }) => integer(time)).reduce((a, b) => (a > b ? a : b), 0n);
  const entries = new Map(slot.entries);
  let result = { stored: [], undecoded: [], notes: [] };
  let fault;
  try {
    result = decoded(call().decode(toMessages(step.messages)));
  } catch (error) {
    fault = faultOf(error);
    slot.entries = entries;
  }
  compareFault(fault, expect, found);
  compareStored(result.stored, expect, found);
  const undecoded = expect.undecoded ?? [];
  if (undecoded.length !== result.undecoded.length || !undecoded.every(({ message, reason }, i) => result.undecoded[i][0] === message && result.undecoded[i][1].includes(reason ?? ''))) {
    found.push(`undecoded ${JSON.stringify(result.undecoded)}`);
  }
  const notes = expect.notes ?? [];
  if (notes.length !== result.notes.length || !notes.every((note, i) => result.notes[i].includes(note))) {
    found.push(`notes ${JSON.stringify(result.notes)}`);
  }
  return found;
}

// A fault is an answer; everything else, a trap above all, is an error of the run.
function faultOf(error) {
  const answer = error instanceof Error ? error.payload : error;
  if (answer?.message === undefined) throw error;
  return answer.message;
}

function compareFault(fault, expect, found) {
  if (fault === undefined ? expect.fault !== undefined : expect.fault === undefined || !fault.includes(expect.fault)) {
    found.push(`fault ${fault}, not ${expect.fault}`);
  }
}

function compareStored(stored, expect, found) {
  if (expect.stored && (expect.stored.length !== stored.length || !expect.stored.every((row, i) => same(stored[i], row)))) {
    const shown = (row) => (typeof row === 'bigint' ? `${row}` : row);
    found.push(`stored ${JSON.stringify(stored, (_, row) => shown(row))}`);
  }
}

// What an answer makes of the rows.
function outcome(batch, output) {
  const rejected = new Map();
  for (const { row, reason } of output.rejected) if (!rejected.has(row)) rejected.set(row, reason);
  const { tag, val } = output.keep;
  const rows = fromBatch(batch);
  const bitmap = { rows: val, 'rows-changed': val?.[0] }[tag];
  const kept = rows.map((_, row) => {
    if (rejected.has(row) || tag === 'none') return false;
    return bitmap ? ((bitmap[row >> 3] >> (row & 7)) & 1) === 1 : true;
  });
  let contents = rows;
  if (tag === 'changed') contents = fromBatch(val);
  if (tag === 'rows-changed') {
    const changed = fromBatch(val[1])[Symbol.iterator]();
    contents = rows.map((row, index) => (((bitmap[index >> 3] >> (index & 7)) & 1) === 1 ? changed.next().value : row));
  }
  const stored = contents.filter((_, row) => kept[row]);
  const filtered = rows.length - stored.length - rejected.size;
  if (output.derived) stored.push(...fromBatch(output.derived));
  return { stored, filtered, rejected };
}

// Everything in which a step is not what was expected.
function problems(step, slot, call) {
  const expect = step.expect ?? {};
  const found = [];
  const now = integer(step.now);
  let batch = toBatch(step.input ?? []);
  slot.begin(step.tick ? slot.series() : batch.names, now);
  let result = { stored: [], filtered: 0, rejected: new Map() };
  let fault;
  try {
    if (!step.tick) {
      result = outcome(batch, call().process(batch));
    } else if (slot.width === 0 || slot.names.length > 0) {
      // What a tick adds is what its alarms are about.
      batch = call().tick(now, slot.names);
      result.stored = fromBatch(batch);
    }
    slot.commit();
  } catch (error) {
    fault = faultOf(error);
    slot.alarms = [];
  }
  compareFault(fault, expect, found);
  compareStored(result.stored, expect, found);
  if (expect.filtered !== undefined && expect.filtered !== result.filtered) {
    found.push(`filtered ${result.filtered}, not ${expect.filtered}`);
  }
  const rejections = expect.rejected ?? [];
  if (rejections.length !== result.rejected.size || !rejections.every(({ row, reason }) => result.rejected.get(row)?.includes(reason ?? ''))) {
    found.push(`rejected ${JSON.stringify([...result.rejected])}`);
  }
  const alarms = expect.alarms ?? [];
  const alike = (got, want) =>
    batch.names[batch.series[got.row]] === want.series && got.code === want.code && got.state === want.state &&
    (want.severity === undefined || got.severity === want.severity);
  const told = slot.alarms;
  if (alarms.length !== told.length || !alarms.every((want, index) => alike(told[index], want))) {
    found.push(`alarms ${JSON.stringify(told)}`);
  }
  return found;
}

async function load(file) {
  const component = new Uint8Array(readFileSync(file));
  const { files } = await transpileBytes(component, { name: 'guest', instantiation: 'sync', emitTypescriptDeclarations: false });
  const dir = mkdtempSync(join(tmpdir(), 'portability-'));
  try {
    const cores = new Map();
    for (const [path, bytes] of Object.entries(files)) {
      if (path.endsWith('.wasm')) cores.set(basename(path), new WebAssembly.Module(bytes));
      if (basename(path) === 'guest.js') writeFileSync(join(dir, 'guest.mjs'), bytes);
    }
    const { instantiate } = await import(pathToFileURL(join(dir, 'guest.mjs')));
    // A fresh instance for every call, as on the gateway.
    return (imports) => () => instantiate((path) => cores.get(basename(path)), imports);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

async function run(file) {
  const manifest = JSON.parse(readFileSync(file.replace(/\.wasm$/, '.json')));
  const { vectors } = parseVectors(readFileSync(join(dirname(file), manifest.vectors), 'utf8'));
  const make = await load(file);
  let failed = 0;
  for (const vector of vectors) {
    const slot = new Slot(manifest, vector);
    const interfaces = Object.entries(slot.imports()).map(([name, functions]) => [`tidegate:module/${name}`, functions]);
    const call = make(Object.fromEntries(interfaces));
    const judge = manifest.world.includes('/decoder@') ? problemsOfDecoder : problems;
    const found = vector.steps.flatMap((step, index) => judge(step, slot, call).map((text) => `step ${index + 1}: ${text}`));
    if (found.length > 0) {
      failed += 1;
      console.log(`FAILED  ${manifest.name}: ${vector.name}\n        ${found.join('\n        ')}`);
    }
  }
  console.log(`${manifest.name}: ${vectors.length - failed} of ${vectors.length} vectors passed`);
  return failed === 0 && vectors.length > 0;
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error('usage: node run.mjs COMPONENT.wasm …');
  process.exit(2);
}
let sound = true;
for (const file of files) sound = (await run(file)) && sound;
process.exit(sound ? 0 : 1);
