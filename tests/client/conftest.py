"""Functions for tests: `terminal(...)` starts the client in a terminal, `link(url)` makes a way to a server that can be
held, `stranger(answers)` starts a server that is none of ours."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.link import Link
from tests.client.stranger import Stranger
from tests.client.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """A function that starts the client in a terminal."""
    opened: list[Terminal] = []

    def start(*arguments: str, **env: str) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments, **env))
        return opened[-1]

    yield start
    for one in opened:
        one.kill()


@pytest.fixture
def link() -> Iterator[Callable[[str], Link]]:
    """A function that makes a way to a server that can be held."""
    made: list[Link] = []

    def make(url: str) -> Link:
        made.append(Link(url))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def stranger() -> Iterator[Callable[..., Stranger]]:
    """A function that starts a server which answers each request with what the test says."""
    started: list[Stranger] = []

    def start(answers: dict[str, str]) -> Stranger:
        started.append(Stranger(answers))
        return started[-1]

    yield start
    for one in started:
        one.close()
