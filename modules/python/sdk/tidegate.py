"""Write Tidegate modules in Python: what stands between the generated bindings and a filter.

A filter is one function, ``process(batch, out)``, and ``WitWorld = filter_of(process)``. Every row goes on unchanged
unless it says otherwise to ``out``; a ``Fault`` that it raises sends the whole batch to quarantine.

Values are ``float``, ``int``, ``bool`` or ``str``; times are nanoseconds since the epoch, exact.
"""

import math
import struct

import wit_world
from componentize_py_types import Err
from wit_world.imports import settings, types

FLOAT, INT, BOOL, TEXT = range(4)
GOOD, UNCERTAIN, BAD = range(3)


class Fault(Exception):
    """Why a whole batch could not be judged; the message is for people, at most 1 KiB."""


class Batch:
    """The readings of a call, as columns with one entry a row."""

    def __init__(self, raw):
        self.names = raw.names
        """The distinct series."""
        self.series = raw.series
        """Index into ``names``."""
        self.time = raw.time
        """Nanoseconds since the epoch."""
        self.kind = bytes(raw.kind)
        """FLOAT, INT, BOOL or TEXT."""
        self.bits = raw.bits
        """By kind: the bits of a double, of a signed integer, 0 or 1, an index into ``texts``."""
        self.quality = bytes(raw.quality)
        """GOOD, UNCERTAIN or BAD."""
        self.texts = raw.texts
        # All floats at once: one call into the interpreter's C code instead of one a row.
        self._floats = struct.unpack(f"<{len(raw.bits)}d", struct.pack(f"<{len(raw.bits)}Q", *raw.bits))

    def __len__(self):
        return len(self.series)

    def value(self, row):
        """What the row measured."""
        kind = self.kind[row]
        if kind == FLOAT:
            return self._floats[row]
        bits = self.bits[row]
        if kind == INT:
            return bits - (1 << 64) if bits >> 63 else bits
        return bool(bits) if kind == BOOL else self.texts[bits]

    def number(self, row):
        """The row's value where it is a number, and finite; else ``None``."""
        if self.kind[row] > INT:
            return None
        value = self.value(row)
        return value if math.isfinite(value) else None


class Output:
    """What becomes of the rows."""

    def __init__(self, rows):
        self._rows = rows
        self._bitmap = None
        self._rejected = []

    def drop(self, row):
        """The row does not go on, and counts as filtered."""
        if self._bitmap is None:
            self._bitmap = bytearray(b"\xff") * ((self._rows + 7) // 8)
        self._bitmap[row >> 3] &= ~(1 << (row & 7))

    def reject(self, row, reason):
        """The row goes to quarantine, where it can be replayed."""
        self._rejected.append(types.Rejection(row, reason))

    def _finish(self):
        keep = types.Keep_All() if self._bitmap is None else types.Keep_Rows(bytes(self._bitmap))
        return types.Output(keep=keep, derived=None, rejected=self._rejected)


def number(key):
    """A number of the settings, or ``None``."""
    return settings.number(key)


def filter_of(process):
    """The component's class for a filter."""

    class WitWorld(wit_world.WitWorld):
        def process(self, batch):
            out = Output(len(batch.series))
            try:
                process(Batch(batch), out)
            except Fault as fault:
                raise Err(types.Fault(str(fault))) from None
            return out._finish()

    return WitWorld
