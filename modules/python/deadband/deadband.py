"""Deadband: a value goes on when it differs enough from the last one that went on. The same as modules/deadband, to the
bytes of its state."""

import math
import struct

import tidegate
from tidegate import Fault, number
from wit_world.imports import series_state

# A layout's number, so that a record is never all zeros; time, bits, kind and quality of the last reading of a series that
# went on. Little-endian, without gaps.
RECORD = struct.Struct("<BqQBB")
LAYOUT = 1
# Truth values, texts and numbers that are not finite: these are equal or not.
FLOAT, INT, OTHER = range(3)

MASK = (1 << 64) - 1


def mix(bits):
    """Spreads every bit over all others, reversibly. Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014."""
    bits = (bits + 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def fnv(text):
    """FNV-1a, 64 bits. Source: Fowler, Noll and Vo, draft-eastlake-fnv."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x0100000001B3) & MASK
    return value


def fingerprint(batch, row):
    """64 bits that stand for what is no number."""
    bits = batch.bits[row]
    kind = batch.kind[row]
    if kind == tidegate.FLOAT:
        return mix(1) if math.isnan(batch.value(row)) else mix(mix(2) ^ bits)
    if kind == tidegate.BOOL:
        return mix(mix(4) ^ bits)
    return mix(mix(5) ^ fnv(batch.texts[bits]))


def signed(bits):
    return bits - (1 << 64) if bits >> 63 else bits


def value_of(kind, bits):
    """The number that a record holds, exact."""
    return signed(bits) if kind == INT else struct.unpack("<d", struct.pack("<Q", bits))[0]


def process(batch, out):
    width, percent = number("width"), number("percent")
    if (width is None) == (percent is None):
        raise Fault("one of `width` and `percent` is needed, and not both")
    seconds = number("max-silence")
    silence = None if seconds is None else seconds * 1e9

    column = bytearray(series_state.load())
    if len(column) != len(batch.names) * RECORD.size:
        raise Fault("the manifest's `state.series.width` is not that of the filter's record")
    # Per series: the record's fields, and the number that it holds.
    state = []
    for layout, time, bits, kind, quality in RECORD.iter_unpack(column):
        if layout != LAYOUT:
            state.append(None)
        else:
            state.append((time, bits, kind, quality, None if kind == OTHER else value_of(kind, bits)))

    changed = set()
    for row in range(len(batch)):
        series = batch.series[row]
        time = batch.time[row]
        quality = batch.quality[row]
        value = batch.number(row)
        if value is None:
            kind, bits = OTHER, fingerprint(batch, row)
        else:
            kind, bits = batch.kind[row], batch.bits[row]
        last = state[series]
        if last is None:
            passes = True
        else:
            last_time, last_bits, last_kind, last_quality, last_value = last
            if kind == OTHER or last_kind == OTHER:
                moved = (kind, bits) != (last_kind, last_bits)
            else:
                # Exact for integers beyond 2^53, whose doubles may be equal; a double between them is one of two.
                if kind == INT and last_kind == INT:
                    distance = float(abs(value - last_value))
                else:
                    distance = abs(float(value) - float(last_value))
                allowed = width if percent is None else abs(float(last_value)) * percent / 100.0
                moved = distance > allowed
            # A reading far in the past counts as well: otherwise a single time stamp in the future would keep the
            # series silent until then.
            silent = silence is not None and abs(time - last_time) >= int(min(silence, MASK))
            passes = moved or silent or quality != last_quality
        if passes:
            state[series] = (time, bits, kind, quality, value)
            changed.add(series)
        else:
            out.drop(row)

    for series in changed:
        time, bits, kind, quality, _ = state[series]
        RECORD.pack_into(column, series * RECORD.size, LAYOUT, time, bits, kind, quality)
    if changed:
        series_state.store(bytes(column))


WitWorld = tidegate.filter_of(process)
