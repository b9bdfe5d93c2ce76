#!/usr/bin/env python3
"""Writes vectors.json: payloads made by Google's Protocol Buffers with the schema of Eclipse Tahu, which shares nothing with the
reader under test.

    python3 -m venv venv && venv/bin/pip install grpcio-tools==1.85.1
    git clone https://github.com/eclipse-tahu/tahu      # sparkplug_b/sparkplug_b.proto
    venv/bin/python make-vectors.py tahu/sparkplug_b/sparkplug_b.proto >vectors.json

What each payload must become stands beside it, by hand, after the Sparkplug Specification 3.0.0.
"""

import json
import struct
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc


def schema(proto):
    """The classes of the schema."""
    proto = Path(proto).resolve()
    out = tempfile.mkdtemp()
    if protoc.main(["protoc", f"--proto_path={proto.parent}", f"--python_out={out}", proto.name]) != 0:
        sys.exit(f"{proto} cannot be compiled")
    sys.path.insert(0, out)
    return __import__(proto.stem + "_pb2")


pb = schema(sys.argv[1])

ARRIVAL = 1766000000000000000
SENT = 1486144502122  # of the specification's examples, in milliseconds
FIELDS = {
    "Int8": "int_value", "Int16": "int_value", "Int32": "int_value", "Int64": "long_value",
    "UInt8": "int_value", "UInt16": "int_value", "UInt32": "int_value", "UInt64": "long_value",
    "Float": "float_value", "Double": "double_value", "Boolean": "boolean_value",
    "String": "string_value", "Text": "string_value", "UUID": "string_value", "DateTime": "long_value",
}
BITS = {"Int8": 32, "Int16": 32, "Int32": 32, "Int64": 64}


def metric(name=None, kind=None, value=None, alias=None, timestamp=None, typed=True, null=False, quality=None, field=None):
    """One metric; a negative number is sent as a two's complement in an unsigned field, as Tahu does."""
    made = pb.Payload.Metric()
    if name is not None:
        made.name = name
    if alias is not None:
        made.alias = alias
    if timestamp is not None:
        made.timestamp = timestamp
    if typed and kind is not None:
        made.datatype = getattr(pb, kind)
    if null:
        made.is_null = True
    if quality is not None:
        made.properties.keys.append("engUnit")
        made.properties.values.add(type=pb.String, string_value="°C")
        made.properties.keys.append("Quality")
        made.properties.values.add(type=pb.Int32, int_value=quality)
    if value is not None:
        if kind in BITS and value < 0:
            value += 1 << BITS[kind]
        setattr(made, field or FIELDS[kind], value)
    return made


def payload(metrics=(), seq=None, timestamp=SENT, **others):
    made = pb.Payload(**others)
    if timestamp is not None:
        made.timestamp = timestamp
    if seq is not None:
        made.seq = seq
    made.metrics.extend(metrics)
    return made


def message(topic, made):
    data = made if isinstance(made, bytes) else made.SerializeToString()
    return {"topic": topic, "time": ARRIVAL, "hex": data.hex()}


def row(series, value, millis=SENT, quality=None):
    time = ARRIVAL if millis is None else millis * 1_000_000
    made = {"series": f"spBv1.0/{series}", "time": time, "value": value}
    if quality:
        made["quality"] = quality
    return made


def stale(series, millis=None):
    return row(series, None, millis, "bad")


vectors = []


def vector(name, *steps):
    made = []
    for messages, stored, *others in steps:
        expect = {"stored": stored}
        for other in others:
            expect.update(other)
        made.append({"messages": messages, "expect": expect})
    vectors.append({"name": name, "steps": made})


def undecoded(at, reason):
    return {"undecoded": [{"message": at, "reason": reason}]}


def notes(*texts):
    return {"notes": list(texts)}


NODE, DEVICE = "Sparkplug B Devices/Raspberry Pi", "Sparkplug B Devices/Raspberry Pi/Pibrella"


def topic(verb, device=""):
    return f"spBv1.0/Sparkplug B Devices/{verb}/Raspberry Pi{device}"


nbirth = [
    ("Node Control/Reboot", "Boolean", False), ("Node Control/Rebirth", "Boolean", False),
    ("Node Control/Next Server", "Boolean", False), ("Node Control/Scan Rate", "Int64", 3000),
    ("Properties/Hardware Make", "String", "Raspberry Pi"), ("Properties/Hardware Model", "String", "Pi 3 Model B"),
    ("Properties/OS", "String", "Raspbian"), ("Properties/OS Version", "String", "Jessie with PIXEL/11.01.2017"),
    ("Supply Voltage", "Float", 12.1),
]
dbirth = [(f"Inputs/{name}", "Boolean", False) for name in ["A", "B", "C", "D", "Button"]]
dbirth += [(f"Outputs/{name}", "Boolean", False) for name in ["E", "F", "G", "H", "LEDs/Green", "LEDs/Red", "LEDs/Yellow", "Buzzer"]]
dbirth += [("Properties/Hardware Make", "String", "Pibrella")]


def single(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def rows(publisher, metrics):
    made = [row(f"{publisher}/{name}", single(value) if kind == "Float" else value) for name, kind, value in metrics]
    return made + [row(f"{publisher}/$online", True)]


def born(metrics):
    return [metric(name, kind, value, timestamp=SENT) for name, kind, value in metrics]


vector(
    "sections 6.4.19 to 6.4.26: the specification's NBIRTH, DBIRTH, NDATA, DDATA, NCMD, DDEATH and NDEATH",
    (
        [message(topic("NBIRTH"), payload([metric("bdSeq", "Int64", 0, timestamp=SENT)] + born(nbirth), 0))],
        rows(NODE, nbirth),
    ),
    ([message(topic("DBIRTH", "/Pibrella"), payload(born(dbirth), 1))], rows(DEVICE, dbirth)),
    (
        [message(topic("NDATA"), payload([metric("Supply Voltage", "Float", 12.3, timestamp=SENT)], 2))],
        [row(f"{NODE}/Supply Voltage", single(12.3))],
    ),
    (
        # Its sequence number is 0 in the specification; there it is an example on its own.
        [message(topic("DDATA", "/Pibrella"), payload([metric(f"Inputs/{n}", "Boolean", True, timestamp=SENT) for n in "AC"], 3))],
        [row(f"{DEVICE}/Inputs/A", True), row(f"{DEVICE}/Inputs/C", True)],
    ),
    ([message(topic("NCMD"), payload([metric("Node Control/Rebirth", "Boolean", True, timestamp=SENT)]))], []),
    (
        [message(topic("DDEATH", "/Pibrella"), payload(seq=4))],
        [stale(f"{DEVICE}/{name}", SENT) for name in sorted(name for name, _, _ in dbirth)] + [row(f"{DEVICE}/$online", False)],
    ),
    (
        [message(topic("NDEATH"), payload([metric("bdSeq", "UInt64", 0, timestamp=SENT)]))],
        [stale(f"{NODE}/{name}") for name in sorted(name for name, _, _ in nbirth)] + [row(f"{NODE}/$online", False, None)],
    ),
)

scalars = [
    ("Int8", -128, -128), ("Int8", 127, 127), ("Int16", -30000, -30000), ("Int32", -2147483648, -2147483648),
    ("Int64", -4270929666821191986, -4270929666821191986), ("UInt8", 250, 250), ("UInt16", 52360, 52360),
    ("UInt32", 3293969225, 3293969225), ("UInt64", 16444743074749521625, 16444743074749521625.0), ("Float", 1.25, 1.25),
    ("Double", 1022.9123213, 1022.9123213), ("Boolean", True, True), ("String", "Grüße", "Grüße"), ("DateTime", 1256102875335, 1256102875335),
    ("Text", "text", "text"), ("UUID", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
]
birth = [metric("bdSeq", "Int64", 7)] + [metric(f"m{at}", kind, value, alias=100 + at) for at, (kind, value, _) in enumerate(scalars)]
data = [metric(None, kind, value, alias=100 + at, typed=False) for at, (kind, value, _) in enumerate(scalars)]
wanted = [row(f"G/N/m{at}", value, quality="uncertain" if kind == "UInt64" else None) for at, (kind, _, value) in enumerate(scalars)]
vector(
    "every scalar datatype, in a birth and by alias; what no signed 64 bits hold is of uncertain quality (section 6.4.17)",
    ([message("spBv1.0/G/NBIRTH/N", payload(birth, 255))], wanted + [row("G/N/$online", True)]),
    ([message("spBv1.0/G/NDATA/N", payload(data, 0))], wanted),
    (
        # In as few bits as they have.
        [message("spBv1.0/G/NDATA/N", payload([metric(alias=100, kind="UInt8", value=0x80, typed=False), metric(alias=102, kind="UInt16", value=0x8AD0, typed=False)], 1))],
        [row("G/N/m0", -128), row("G/N/m2", -30000)],
    ),
    (
        [message("spBv1.0/G/NDATA/N", payload([metric(alias=105, kind="UInt16", value=256, typed=False)], 2))],
        [],
        undecoded(0, "the metric `m5`: 256 does not fit into 8 bits"),
    ),
    (
        [message("spBv1.0/G/NDATA/N", payload([metric(alias=109, kind="String", value="12", typed=False)], 3))],
        [],
        undecoded(0, "the metric `m9`: the text `12` is not of its datatype"),
    ),
)

plain = [metric("bdSeq", "Int64", 1), metric("t", "Double", 20.5, alias=1)]
vector(
    "an alias that no birth has named: set aside, to be replayed behind the birth (sections 6.4.6, 5.4)",
    (
        [
            message("spBv1.0/G/NDATA/N", payload([metric(alias=1, kind="Double", value=21.0, typed=False)], 5)),
            message("spBv1.0/G/NBIRTH/N", payload(plain, 0)),
            message("spBv1.0/G/DDATA/N/D", payload([metric(alias=1, kind="Double", value=21.0, typed=False)], 1)),
            message("spBv1.0/G/NDATA/N", payload([metric(alias=2, kind="Double", value=21.0, typed=False)], 2)),
            message("spBv1.0/G/NDATA/N", payload([metric(alias=1, kind="Double", value=21.0, typed=False)], 3)),
        ],
        [row("G/N/t", 20.5), row("G/N/$online", True), row("G/N/t", 21.0)],
        {
            "undecoded": [
                {"message": 0, "reason": "no birth of G/N that came so far names the alias 1"},
                {"message": 2, "reason": "no birth of G/N/D that came so far names the alias 1"},
                {"message": 3, "reason": "no birth of G/N that came so far names the alias 2"},
            ]
        },
    ),
)


def at(alias, value, seq):
    return message("spBv1.0/G/NDATA/N", payload([metric(alias=alias, kind="Double", value=value, typed=False)], seq))


vector(
    "sequence numbers go to 255 and on with 0; a gap is noted, and so is what comes late (section 6.4.5)",
    ([message("spBv1.0/G/NBIRTH/N", payload(plain, 254)), at(1, 1.0, 255), at(1, 2.0, 0), at(1, 3.0, 1)],
     [row("G/N/t", 20.5), row("G/N/$online", True), row("G/N/t", 1.0), row("G/N/t", 2.0), row("G/N/t", 3.0)]),
    ([at(1, 4.0, 5)], [row("G/N/t", 4.0)], notes("G/N: sequence number 5 where 2 was due: 3 messages are missing")),
    ([at(1, 5.0, 3)], [row("G/N/t", 5.0)], notes("G/N: sequence number 3 came late, or again")),
    ([at(1, 6.0, 6)], [row("G/N/t", 6.0)]),
    ([at(1, 7.0, None)], [row("G/N/t", 7.0)], notes("G/N: a message without a sequence number")),
    ([at(1, 8.0, 7)], [row("G/N/t", 8.0)]),
)

vector(
    "bdSeq tells a death from one of an earlier session; behind a death data is uncertain until the next birth (sections 6.4.19, 6.4.25)",
    ([message("spBv1.0/G/NBIRTH/N", payload(plain, 0))], [row("G/N/t", 20.5), row("G/N/$online", True)]),
    ([message("spBv1.0/G/NDEATH/N", payload([metric("bdSeq", "Int64", 0)], timestamp=None))], [],
     notes("G/N: the death of an earlier session is left out: its bdSeq is 0, that of the birth 1")),
    ([message("spBv1.0/G/NDEATH/N", payload([metric("bdSeq", "Int64", 1)], timestamp=None))], [stale("G/N/t"), row("G/N/$online", False, None)]),
    ([message("spBv1.0/G/NDEATH/N", payload([metric("bdSeq", "Int64", 1)], timestamp=None))], [], notes("G/N: a death without a birth")),
    ([at(1, 21.0, 9)], [row("G/N/t", 21.0, quality="uncertain")], notes("G/N: data behind its death, before another birth")),
    ([message("spBv1.0/G/NBIRTH/N", payload(plain, 0)), at(1, 22.0, 1)], [row("G/N/t", 20.5), row("G/N/$online", True), row("G/N/t", 22.0)]),
)

vector(
    "a node's death is that of its devices, and its birth awaits theirs (sections 5.5, 5.6)",
    (
        [
            message("spBv1.0/G/NBIRTH/N", payload(plain, 0)),
            message("spBv1.0/G/DBIRTH/N/D", payload([metric("p", "Int32", 4, alias=2)], 1)),
            message("spBv1.0/G/NDEATH/N", payload([metric("bdSeq", "Int64", 1)])),
        ],
        [row("G/N/t", 20.5), row("G/N/$online", True), row("G/N/D/p", 4), row("G/N/D/$online", True),
         stale("G/N/t"), row("G/N/$online", False, None), stale("G/N/D/p"), row("G/N/D/$online", False, None)],
    ),
    (
        [message("spBv1.0/G/NBIRTH/N", payload(plain, 0)), message("spBv1.0/G/DDATA/N/D", payload([metric(alias=2, kind="Int32", value=5, typed=False)], 1))],
        [row("G/N/t", 20.5), row("G/N/$online", True), row("G/N/D/p", 5, quality="uncertain")],
        notes("G/N/D: data behind its death, before another birth"),
    ),
    ([message("spBv1.0/G/DDEATH/N/D", payload(seq=2))], [], notes("G/N/D: a death without a birth")),
)

vector(
    "times of metrics, of the payload and of the arrival; null; the property Quality (sections 6.4.5, 6.4.6, 6.4.9)",
    (
        [
            message("spBv1.0/G/NBIRTH/N", payload([metric("bdSeq", "Int64", 1), metric("a", "Double", 1.0, timestamp=SENT - 5),
                    metric("b", "Int32", null=True), metric("c", "Float", 2.5, quality=192), metric("d", "Float", 2.5, quality=500),
                    metric("e", "Boolean", True, quality=0), metric("f", "Int8", 5, quality=7)], 0)),
            message("spBv1.0/G/NDATA/N", payload([metric("b", value=-3, kind="Int32", typed=False)], 1, timestamp=None)),
        ],
        [row("G/N/a", 1.0, SENT - 5), stale("G/N/b", SENT), row("G/N/c", 2.5), row("G/N/d", 2.5, quality="bad"),
         row("G/N/e", True, quality="bad"), row("G/N/f", 5, quality="uncertain"), row("G/N/$online", True), row("G/N/b", -3, None)],
    ),
    ([message("spBv1.0/G/NDATA/N", payload([metric("a", "Double", 1.0, timestamp=2**63)], 2))], [], undecoded(0, "the metric `a`: it is of 9223372036854775808 ms")),
)

dataset = metric("set", "DataSet")
dataset.dataset_value.num_of_columns = 1
dataset.dataset_value.columns.append("x")
dataset.dataset_value.types.append(pb.Int8)
template = metric("motor", "Template")
template.template_value.is_definition = True
template.template_value.metrics.append(metric("rpm", "Int32"))
array = metric("array", "Int16Array", alias=9)
array.bytes_value = bytes([0xD0, 0x8A, 0x30, 0x75])
vector(
    "datasets, templates, bytes and arrays are left out, with a note that counts them (section 6.4.17)",
    (
        [message("spBv1.0/G/NBIRTH/N", payload([metric("bdSeq", "Int64", 1), dataset, metric("ok", "Int8", 1), template, array], 0))],
        [row("G/N/ok", 1), row("G/N/$online", True)],
        notes("G/N: 3 metrics whose datatype no reading can hold are left out, `set` (DataSet) the first"),
    ),
    (
        [message("spBv1.0/G/NDATA/N", payload([metric(alias=9, kind="Int16Array", value=b"\0\0", field="bytes_value", typed=False)], 1))],
        [],
        notes("G/N: 1 metrics whose datatype no reading can hold are left out, `array` (Int16Array) the first"),
    ),
    ([message("spBv1.0/G/NDEATH/N", payload([metric("bdSeq", "Int64", 1)]))], [stale("G/N/ok"), row("G/N/$online", False, None)]),
)

vector(
    "births that contradict themselves, compressed payloads, topics that are none; a host's state (sections 4, 6.4.6, 6.4.27)",
    (
        [
            message("spBv1.0/G/NBIRTH/N", payload([metric("a", "Int8", 1, alias=1), metric("b", "Int8", 1, alias=1)], 0)),
            message("spBv1.0/G/NBIRTH/N", payload([metric(None, "Int8", 1, alias=1)], 0)),
            message("spBv1.0/G/NBIRTH/N", payload([metric("a", "Int8", 1, typed=False)], 0)),
            message("spBv1.0/G/NDATA/N", payload(seq=0, uuid="SPBV1.0_COMPRESSED", body=b"\x78\x9c")),
            message("spBv1.0/G/NDATA/N/D", payload(seq=0)),
            message("spBv1.0/G/DDATA/N", payload(seq=0)),
            message("spBv1.0/G/NOTHING/N", payload(seq=0)),
            message("spAv1.0/G/NDATA/N", payload(seq=0)),
            message("spBv1.0/G/NDATA/N", b"\x0a\x05\x01"),
            message("spBv1.0/STATE/scada", json.dumps({"online": True, "timestamp": SENT}).encode()),
            message("spBv1.0/STATE/scada", b"ONLINE"),
        ],
        [row("STATE/scada/$online", True)],
        {
            "undecoded": [
                {"message": 0, "reason": "the alias 1 is that of `a` and of `b`"},
                {"message": 1, "reason": "a metric of the birth has no name (its alias is 1)"},
                {"message": 2, "reason": "the metric `a` has the datatype 0"},
                {"message": 3, "reason": "the payload is compressed"},
                {"message": 4, "reason": "is no topic of Sparkplug B"},
                {"message": 5, "reason": "is no topic of Sparkplug B"},
                {"message": 6, "reason": "is no topic of Sparkplug B"},
                {"message": 7, "reason": "is no topic of Sparkplug B"},
                {"message": 8, "reason": "byte 2: the message ends within a field"},
                {"message": 10, "reason": "byte 0: a value was expected"},
            ]
        },
    ),
)

json.dump({"vectors": vectors}, sys.stdout, indent=1, ensure_ascii=False)
print()
