"""`python -m client`: chat in the terminal."""

import asyncio
import os
import sys

from client.app import run
from client.oneshot import INTERRUPTED
from client.settings import parse


def main() -> int:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started us: it takes everything, and cannot be read
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w" if number else "r"))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # what is not UTF-8 gets a ?, not a traceback
    settings = parse(sys.argv[1:])
    try:
        return asyncio.run(run(settings))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read us has enough; Python would say so once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
