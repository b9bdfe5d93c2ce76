"""Types answers at a terminal of its own, as a person would: argv is the answers, `--` and the command.

An answer is typed once its question (a line that ends in `: `) stands there. Prints JSON: the exit code, everything that the terminal
showed, and whether it echoed at each question and at the end."""

import json
import os
import pty
import select
import sys
import termios
import time

split = sys.argv.index("--")
answers, command = sys.argv[1:split], sys.argv[split + 1:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(command[0], command)


def echoes():
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


shown, at, echo = b"", 0, []
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    ready, _, _ = select.select([terminal], [], [], 0.2)
    if ready:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    if answers and shown[at:].endswith(b": "):
        at = len(shown)
        echo.append(echoes())
        os.write(terminal, answers.pop(0).encode().decode("unicode_escape").encode("latin-1") + b"\n")
end = echoes()
_, status = os.waitpid(child, 0)
json.dump(
    {
        "code": os.waitstatus_to_exitcode(status),
        "shown": shown.decode(errors="replace"),
        "echo": echo,
        "end": end,
        "left": answers,
    },
    sys.stdout,
)
