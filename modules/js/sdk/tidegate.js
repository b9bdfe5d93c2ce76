// Write Tidegate modules in JavaScript: what stands between the contract and a filter. A filter is one function over a
// `Batch` and an `Output`, and `export const process = filter(function)`. Every row goes on unchanged unless the function
// says otherwise; a `Fault` that it throws sends the whole batch to quarantine.

// `kind` of a row.
export const FLOAT = 0;
export const INT = 1;
export const BOOL = 2;
export const TEXT = 3;
// `quality` of a row.
export const GOOD = 0;
export const UNCERTAIN = 1;
export const BAD = 2;

// Why a whole batch could not be judged; the message is for people, at most 1 KiB.
export class Fault extends Error {}

// The readings of a call as columns, with one entry a row.
export class Batch {
  constructor(raw) {
    // The distinct series.
    this.names = raw.names;
    // Uint32Array: index into `names`.
    this.series = raw.series;
    // BigInt64Array: nanoseconds since the epoch.
    this.time = raw.time;
    // Uint8Array: FLOAT, INT, BOOL or TEXT.
    this.kind = raw.kind;
    // BigUint64Array, by kind: the bits of a double, of a signed integer, 0 or 1, an index into `texts`.
    this.bits = raw.bits;
    this.texts = raw.texts;
    // Uint8Array: GOOD, UNCERTAIN or BAD.
    this.quality = raw.quality;
    this.length = raw.series.length;
    // The same bits, read as doubles and as signed integers.
    const { buffer, byteOffset, length } = raw.bits;
    this.floats = new Float64Array(buffer, byteOffset, length);
    this.integers = new BigInt64Array(buffer, byteOffset, length);
  }

  // What the row measured: a number, a BigInt (integers are exact), a boolean or a string.
  value(row) {
    switch (this.kind[row]) {
      case FLOAT: return this.floats[row];
      case INT: return this.integers[row];
      case BOOL: return this.bits[row] === 1n;
      default: return this.texts[Number(this.bits[row])];
    }
  }

  // The row's value where it is a number, and finite; else undefined.
  number(row) {
    switch (this.kind[row]) {
      case FLOAT: {
        const value = this.floats[row];
        return Number.isFinite(value) ? value : undefined;
      }
      case INT: return Number(this.integers[row]);
      default: return undefined;
    }
  }
}

// What becomes of the rows.
export class Output {
  #rows;
  #bitmap;
  #rejected = [];

  constructor(rows) {
    this.#rows = rows;
  }

  // The row does not go on, and counts as filtered.
  drop(row) {
    this.#bitmap ??= new Uint8Array((this.#rows + 7) >> 3).fill(0xff);
    this.#bitmap[row >> 3] &= ~(1 << (row & 7));
  }

  // The row goes to quarantine, where it can be replayed.
  reject(row, reason) {
    this.#rejected.push({ row, reason });
  }

  finish() {
    const keep = this.#bitmap ? { tag: 'rows', val: this.#bitmap } : { tag: 'all' };
    return { keep, derived: undefined, rejected: this.#rejected };
  }
}

// The function that the component exports.
export function filter(process) {
  return (raw) => {
    const out = new Output(raw.series.length);
    try {
      process(new Batch(raw), out);
    } catch (error) {
      if (error instanceof Fault) {
        throw { message: error.message };
      }
      throw error;
    }
    return out.finish();
  };
}
