"""A Modbus slave by pymodbus, for tests/modbus: what it holds comes as JSON on standard input.

{"listen": 5020, "framer": "socket" or "rtu"} or {"device": "/dev/pts/3", "speed": 9600}, and
{"devices": {"1": {"holding": {"0": [1, 2]}, "coil": {"0": [true]}, ...}}}: runs of values by their first address. An address
that is in no run is refused (exception 02). A unit that is not there does not answer."""

import asyncio
import json
import sys

from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

# A table that nobody wants must not be empty.
NOWHERE = 65000


def block(runs, datatype):
    found = [
        SimData(int(address), values=values, datatype=datatype)
        for address, values in runs.items()
    ]
    nothing = [True] * 16 if datatype == DataType.BITS else [0]
    return found or [SimData(NOWHERE, values=nothing, datatype=datatype)]


def device(unit, tables):
    bits = [block(tables.get(name, {}), DataType.BITS) for name in ("coil", "discrete")]
    words = [block(tables.get(name, {}), DataType.REGISTERS) for name in ("holding", "input")]
    return SimDevice(id=int(unit), simdata=(*bits, *words))


async def main():
    what = json.load(sys.stdin)
    devices = [device(unit, tables) for unit, tables in what["devices"].items()]
    if "listen" in what:
        server = ModbusTcpServer(
            devices,
            framer=FramerType(what["framer"]),
            address=("127.0.0.1", what["listen"]),
            ignore_missing_devices=True,
        )
    else:
        server = ModbusSerialServer(
            devices,
            framer=FramerType.RTU,
            port=what["device"],
            baudrate=what["speed"],
            ignore_missing_devices=True,
        )
    await server.serve_forever()


asyncio.run(main())
