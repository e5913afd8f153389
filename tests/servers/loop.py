"""One event loop in a thread of its own, for the servers that are written here."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, SupportsIndex

from servers.base import Recorder

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class LoopThread:
    """Runs coroutines for callers of other threads. ``close()`` cancels what still runs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="servers", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any], *, timeout_s: float = 20.0) -> Any:
        """The coroutine's result; its exception is raised here."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self.run(_cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _RecordingReader(asyncio.StreamReader):
    """A stream reader that keeps every byte, exactly as TLS gave it."""

    def __init__(self, recorder: Recorder, port: int) -> None:
        super().__init__(limit=1 << 20)
        self._recorder = recorder
        self._entry = recorder.connection(port)

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        received = bytes(data)
        self._recorder.append(self._entry, received)
        super().feed_data(received)


async def listen(
    handler: Handler, address: str, port: int, recorder: Recorder, context: ssl.SSLContext | None
) -> asyncio.Server:
    """Serve ``handler`` on one port, recording what comes in. An error ends its own connection only."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, EOFError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            writer.transport.abort()
        finally:
            writer.close()

    def factory() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(_RecordingReader(recorder, port), guarded)

    loop = asyncio.get_running_loop()
    return await loop.create_server(factory, address, port, ssl=context, backlog=512)
