"""A clock that moves only when a test says so."""

import asyncio


class Instants:
    """Call it for the time in seconds, as `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleeping: list[tuple[float, asyncio.Event]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Until the clock was moved that far."""
        event = asyncio.Event()
        self._sleeping.append((self.now + seconds, event))
        await event.wait()

    def advance_to(self, now: float) -> None:
        """Move the clock and wake who has slept enough."""
        self.now = now
        for until, event in self._sleeping:
            if until <= now:
                event.set()
        self._sleeping = [(until, event) for until, event in self._sleeping if until > now]
