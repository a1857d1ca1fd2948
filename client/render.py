"""One answer on the screen, from its first chunk to the box that sums it up."""

from client.conversation import Conversation
from client.figures import Progress
from client.markdown import Markdown
from client.paint import Style
from client.screen import Screen
from client.wording import counted, ending, seconds
from client.wrap import Wrap
from proto.events import Chunk, Complete, Error, Event

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINS_PER_SECOND = 10


class Growing:
    """An answer that is being written."""

    def __init__(self, screen: Screen, raw: bool, session_id: str | None = None) -> None:
        self.session_id = session_id
        self._screen = screen
        self._markdown = Markdown(Wrap(lambda: screen.columns, screen.paint), raw)
        self.progress = Progress()
        self.waiting = ""  # why nothing comes
        self.seen = 0

    def add(self, event: Event) -> None:
        self.waiting = ""
        if isinstance(event, Chunk):
            self._screen.lines(self._markdown.feed(event.text))
            self._screen.grow(self.tail)

    def tail(self) -> str:
        """The line that is not finished; before the first one, a sign of life."""
        line = self._markdown.tail
        if line and not self.waiting:
            return line
        spin = SPINNER[int(self.progress.seconds * SPINS_PER_SECOND) % len(SPINNER)]
        return self._screen.paint(f"{spin} {self.waiting or 'thinking'}"[: self._screen.columns], Style.DIM)

    def rest(self) -> None:
        """It goes on later, if at all, with the line that is not finished: until then that stays as it looks now."""
        tail = self._markdown.tail
        self._screen.grow(None)
        self._screen.lines([tail] if tail else [])

    def close(self) -> None:
        """What was held back is written; nothing grows any more."""
        lines = self._markdown.close()
        self._screen.grow(None)
        self._screen.lines(lines)


def summary(talk: Conversation, progress: Progress, screen: Screen) -> list[str]:
    """The box under an answer."""
    end = progress.end
    if isinstance(end, Complete):
        title = ending(end.finish_reason)
        style = Style.GOOD if title == "complete" else Style.ACCENT
    else:
        title, style = ("failed" if isinstance(end, Error) else "not whole"), Style.BAD
    chunks = end.total_chunks if isinstance(end, Complete) else progress.chunks
    items = [counted(chunks, "chunk"), seconds(progress.seconds)]
    if progress.first_chunk is not None:
        items.append(f"first chunk {seconds(progress.first_chunk)}")
    if progress.context_messages is not None:
        shown = progress.context_messages
        omitted = f"{shown} of " if progress.omitted_messages else ""
        items.append(f"context {omitted}{counted(shown + progress.omitted_messages, 'message')}")
    if progress.rate is not None:
        items.append(f"{progress.rate:.0f} tokens/s")
    if progress.resumed:
        items.append(f"resumed {'once' if progress.resumed == 1 else f'{progress.resumed} times'}")
    items.append(talk.protocol)
    return screen.box(title, items, style)
