"""The table of commands: it prints the help, feeds the completion, and finds what a prefix means."""

from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

Seat = TypeVar("Seat")


class Command(NamedTuple, Generic[Seat]):
    """One row. `argument` is shown as it is; `choices` says what completes it."""

    name: str
    argument: str
    help: str
    choices: str
    run: Callable[[Seat, str], Awaitable[None]]

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.argument}".rstrip()


class Unclear(Exception):
    """No command, or several, begin like this; the message says which."""


class Table(Generic[Seat]):
    def __init__(self) -> None:
        self.commands: dict[str, Command[Seat]] = {}

    def command(
        self, usage: str, text: str, choices: str = ""
    ) -> Callable[[Callable[[Seat, str], Awaitable[None]]], Callable[[Seat, str], Awaitable[None]]]:
        """Decorates what a command does with its row: `/name ARGUMENT`, one line of help, what completes it."""
        name, _, argument = usage.removeprefix("/").partition(" ")

        def add(run: Callable[[Seat, str], Awaitable[None]]) -> Callable[[Seat, str], Awaitable[None]]:
            self.commands[name] = Command(name, argument, text, choices, run)
            return run

        return add

    def find(self, name: str) -> Command[Seat]:
        """The command of this name, or the only one that begins like it."""
        name = name.removeprefix("/").lower()
        if name in self.commands:
            return self.commands[name]
        fits = self.beginning(name) if name else []
        if len(fits) == 1:
            return fits[0]
        if not fits:
            raise Unclear(f"There is no command /{name}; /help lists them. A blank in front makes it a message.")
        raise Unclear(f"/{name} may be {' or '.join('/' + command.name for command in fits)}.")

    def beginning(self, name: str) -> list[Command[Seat]]:
        return [command for command in self.commands.values() if command.name.startswith(name)]


def split(line: str) -> tuple[str, str]:
    """A command line's name and argument."""
    name, _, argument = line.partition(" ")
    return name, argument.strip()
