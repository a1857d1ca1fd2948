"""A question that a command asks before it does what cannot be undone: what is typed next is the answer."""

import asyncio

from client.screen import Screen


class Question:
    def __init__(self, screen: Screen) -> None:
        self.text = ""  # while it waits for its answer
        self._screen = screen
        self._reply: asyncio.Future[bool] | None = None

    async def ask(self, text: str) -> bool:
        self.text, self._reply = text, asyncio.get_running_loop().create_future()
        self._screen.refresh()
        try:
            return await self._reply
        finally:
            self.text, self._reply = "", None

    def answered_by(self, typed: str) -> bool:
        """Only a clear yes is one; whatever is no clear no either means something else."""
        if self._reply is None or self._reply.done():
            return False
        answer = typed.strip().lower()
        yes = answer in ("y", "yes")
        self._screen.say(f"{self.text} {'yes' if yes else 'no'}")
        self._reply.set_result(yes)
        return yes or answer in ("n", "no", "")
