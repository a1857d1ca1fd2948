"""`python -m server`, from its first moment: importing what it does (server/program.py) is what takes time."""

import os
import signal
import sys

INTERRUPTED = 130


def main() -> int:
    # Whoever starts a server may have closed these (`>&-`): they are None, and sockets would get their numbers.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where SIGINT is ignored
        # A Ctrl-C meanwhile ends it without a traceback. An exception would not do: where it comes in a callback of the
        # import system, Python prints it and goes on.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from server import program

    return program.main()


if __name__ == "__main__":
    sys.exit(main())
