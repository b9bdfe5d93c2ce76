#!/usr/bin/env python3
"""Trains the model of `classify` and writes src/model.rs and vectors.json.

    modules/classify/train.py            writes both
    modules/classify/train.py --check    writes nothing, and fails where the files are others

Needs Python 3.9 or later and nothing else. All data is made here, seeded: vibration of a machine that is sound, out of
balance, or has a damaged bearing, after the usual textbook shapes (R. B. Randall, Vibration-based Condition Monitoring,
2nd ed., 2021, sections 2.2 and 5.2): imbalance is a sine at the shaft's frequency, a bearing fault a train of impacts at
a multiple of it, 2.5 to 5.5, that rings a resonance of the structure.
"""

import json
import math
import random
import re
import sys
from pathlib import Path

SEED = 20261127
SAMPLES = 64  # of a window
LINES = 31  # of the spectrum, without the constant and the last
BANDS = (1, 2, 3, 4, 6, 8, 11, 14, 18, 22, 27, 31)  # the last line of each
FEATURES = 16
HIDDEN = 16
CLASSES = ("normal", "imbalance", "bearing-fault")
HIDDEN_SHIFT = 7  # of an accumulator before it is an activation

COSINE = [[round(127 * math.cos(2 * math.pi * k * n / SAMPLES)) for n in range(SAMPLES)] for k in range(1, LINES + 1)]
SINE = [[round(127 * math.sin(2 * math.pi * k * n / SAMPLES)) for n in range(SAMPLES)] for k in range(1, LINES + 1)]


def log2(value):
    """Eighths of an octave: the position of the highest bit, and the three bits behind it. As in src/features.rs."""
    high = value.bit_length() - 1
    return high * 8 + ((value << 3 >> high) & 7)


def clamp(value, low, high):
    return max(low, min(high, value))


def features(window):
    """What the model sees of a window of 16-bit samples; as in src/features.rs, integer by integer."""
    mean = sum(window) >> 6
    x = [clamp(sample - mean, -32767, 32767) for sample in window]
    peak = max(1, max(abs(sample) for sample in x))
    level = log2(1 + sum(sample * sample for sample in x))
    # So that nothing below depends on how strong the vibration is.
    shift = 15 - peak.bit_length()
    x = [sample << shift for sample in x]
    peak <<= shift
    squares = [sample * sample for sample in x]
    energy = 1 + sum(squares)
    fourth = 1 + sum((square >> 10) ** 2 for square in squares)

    power = []
    for cosine, sine in zip(COSINE, SINE):
        c = sum(a * b for a, b in zip(cosine, x))
        s = sum(a * b for a, b in zip(sine, x))
        power.append(c * c + s * s)
    total = log2(1 + sum(power))
    found = []
    first = 0
    for last in BANDS:
        found.append(clamp(64 + log2(1 + sum(power[first:last])) - total, -127, 127))
        first = last
    found.append(clamp(2 * (log2(peak * peak * SAMPLES) - log2(energy)), -127, 127))  # crest
    found.append(clamp(2 * (log2(fourth * SAMPLES) - 2 * log2(energy >> 10 or 1)), -127, 127))  # kurtosis
    found.append(clamp(level - 128, -127, 127))
    found.append(64)  # the same for all: the bias
    return found


def window(random, kind):
    """A window of a machine in this condition, 16-bit samples at 1 kHz; full scale is 32767."""
    shaft = random.uniform(20, 60)
    gain = 10 ** random.uniform(2.3, 3.7)
    phase = [random.uniform(0, 2 * math.pi) for _ in range(4)]
    ones = random.uniform(0.1, 0.5)
    if kind == "imbalance":
        ones = random.uniform(2.0, 5.0)
    twos = random.uniform(0.05, 0.3)
    noise = random.uniform(0.3, 0.6)
    impacts = shaft * random.uniform(2.5, 5.5)
    resonance = random.uniform(220, 420)
    decay = random.uniform(150, 400)
    strength = random.uniform(2.5, 6.0) if kind == "bearing-fault" else 0.0
    offset = random.uniform(0, 1 / impacts)
    samples = []
    for n in range(SAMPLES):
        t = n / 1000
        value = ones * math.sin(2 * math.pi * shaft * t + phase[0])
        value += twos * math.sin(4 * math.pi * shaft * t + phase[1])
        value += noise * random.gauss(0, 1)
        since = (t + offset) % (1 / impacts)
        value += strength * math.exp(-decay * since) * math.sin(2 * math.pi * resonance * since)
        samples.append(clamp(round(gain * value), -32767, 32767))
    return samples


def train(random, data):
    """A network of one hidden layer by stochastic gradient descent; weights in floating point."""
    first = [[random.gauss(0, 0.3) for _ in range(FEATURES)] for _ in range(HIDDEN)]
    second = [[random.gauss(0, 0.3) for _ in range(HIDDEN)] for _ in range(len(CLASSES))]
    for epoch in range(30):
        random.shuffle(data)
        rate = 0.02 * 0.9**epoch
        for found, label in data:
            x = [feature / 64 for feature in found]
            hidden = [max(0.0, sum(w * v for w, v in zip(row, x))) for row in first]
            scores = [sum(w * h for w, h in zip(row, hidden)) for row in second]
            top = max(scores)
            powers = [math.exp(score - top) for score in scores]
            whole = sum(powers)
            errors = [p / whole - (1.0 if index == label else 0.0) for index, p in enumerate(powers)]
            back = [sum(errors[c] * second[c][h] for c in range(len(CLASSES))) for h in range(HIDDEN)]
            for c, error in enumerate(errors):
                row = second[c]
                for h in range(HIDDEN):
                    row[h] -= rate * error * hidden[h]
            for h, slope in enumerate(back):
                if hidden[h] > 0.0:
                    row = first[h]
                    for f in range(FEATURES):
                        row[f] -= rate * slope * x[f]
    return first, second


def quantise(first, second):
    """Eight-bit weights. One scale a layer: which class has the highest score does not depend on it."""

    def layer(rows):
        scale = 127 / max(abs(w) for row in rows for w in row)
        return [[round(w * scale) for w in row] for row in rows]

    return layer(first), layer(second)


def classify(model, found):
    """As in src/lib.rs, integer by integer."""
    first, second = model
    hidden = [clamp(sum(w * f for w, f in zip(row, found)) >> HIDDEN_SHIFT, 0, 127) for row in first]
    scores = [sum(w * h for w, h in zip(row, hidden)) for row in second]
    return scores.index(max(scores))


def rust(model, held_out, accuracy):
    def table(name, kind, rows, doc):
        lines = "".join("    [" + ", ".join(map(str, row)) + "],\n" for row in rows)
        return f"/// {doc}\n#[rustfmt::skip]\npub(crate) const {name}: [[{kind}; {len(rows[0])}]; {len(rows)}] = [\n{lines}];\n"

    return (
        "//! Written by train.py, which says what it was trained on. Do not edit.\n//!\n"
        f"//! Right on {accuracy:.1%} of {held_out} windows that it was not trained on.\n\n"
        f"/// Bits that an accumulator of the hidden layer loses.\npub(crate) const HIDDEN_SHIFT: u32 = {HIDDEN_SHIFT};\n\n"
        + table("FIRST", "i16", model[0], "Weights of the hidden layer, by neuron and feature.")
        + "\n"
        + table("SECOND", "i16", model[1], "Weights of the output, by class and neuron.")
        + "\n"
        + table("COSINE", "i16", COSINE, "127 × cos(2πkn/64), by line k from 1 and sample n.")
        + "\n"
        + table("SINE", "i16", SINE, "127 × sin(2πkn/64), likewise.")
    )


def vectors(random, model):
    """One window of every condition, and two that raise an alarm and two that clear it."""

    def step(kinds, **expect):
        nonlocal time
        rows, stored = [], []
        for kind in kinds:
            samples = window(random, kind)
            while classify(model, features(samples)) != CLASSES.index(kind):
                samples = window(random, kind)
            for sample in samples:
                time += 1_000_000
                rows.append({"series": "pump/x", "time": time, "value": sample * 8.0 / 32767})
            stored.append({"series": "pump/x/condition", "time": time, "value": kind})
        expect = {"stored": stored, "filtered": len(rows), **expect}
        return {"now": 0, "input": rows, "expect": expect}

    time = 0
    one = [
        {"name": f"a window of a machine that is {kind}", "settings": {"full-scale": 8, "keep": False, "hold": 9}, "steps": [step([kind])]}
        for kind in CLASSES
    ]
    time = 0
    alarm = {"series": "pump/x", "code": "condition"}
    two = {
        "name": "an alarm after two windows in a row, over batches, and cleared likewise",
        "settings": {"full-scale": 8, "keep": False, "hold": 2, "severity": "critical"},
        "steps": [
            step(["bearing-fault"]),
            step(["bearing-fault"], alarms=[{**alarm, "state": "raised", "severity": "critical"}]),
            step(["normal"]),
            step(["normal"], alarms=[{**alarm, "state": "cleared"}]),
        ],
    }
    text = json.dumps({"vectors": [*one, two]}, indent=1)
    # A reading a line.
    reading = r'\{\s+("series": "[^"]*"),\s+("time": \d+),\s+("value": [^\s]+)\s+\}'
    return re.sub(reading, r"{\1, \2, \3}", text) + "\n"


def main():
    draws = random.Random(SEED)
    data = [(features(window(draws, kind)), label) for _ in range(500) for label, kind in enumerate(CLASSES)]
    model = quantise(*train(draws, data))
    held_out = [(features(window(draws, kind)), label) for _ in range(300) for label, kind in enumerate(CLASSES)]
    accuracy = sum(classify(model, found) == label for found, label in held_out) / len(held_out)
    print(f"right on {accuracy:.1%} of {len(held_out)} windows", file=sys.stderr)
    if accuracy < 0.95:
        sys.exit("train.py: the model is not good enough to be used: 95 % are asked for")

    here = Path(__file__).resolve().parent
    different = []
    for path, text in (
        (here / "src/model.rs", rust(model, len(held_out), accuracy)),
        (here / "vectors.json", vectors(draws, model)),
    ):
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif path.read_text() != text:
            different.append(str(path))
    if different:
        sys.exit(f"train.py: {', '.join(different)}: not what this script makes; run it without --check")


if __name__ == "__main__":
    main()
