"""What `python -m client` does: chat in the terminal, with an exit code that tells how it went."""

import asyncio
import os
import signal
import sys

from client.app import run
from client.console import Unwritable
from client.oneshot import INTERRUPTED, LEFT, REFUSED
from client.settings import parse


def main() -> int:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started us: it takes everything, and cannot be read
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w" if number else "r"))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # what is not UTF-8 gets a ?, not a traceback
    settings = parse(sys.argv[1:])
    try:
        if callable(signal.getsignal(signal.SIGINT)):  # not where SIGINT is ignored
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which asyncio takes over
        return asyncio.run(run(settings))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, Unwritable) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more at exit
        if isinstance(error, BrokenPipeError):
            return LEFT
        print(f"fivewire: {error}", file=sys.stderr)
        return REFUSED
