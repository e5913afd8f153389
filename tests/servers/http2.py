"""The HTTP/2 side of the API server (RFC 9113), over the ``h2`` library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from servers.http import Exchange, Handle, Headers, Request


class _Stream(Exchange):
    """One stream. ``write`` waits for the peer's window, ``body`` gives credit as it is read."""

    def __init__(self, session: _Session, number: int, request: Request) -> None:
        self.request = request
        self._session = session
        self.number = number
        self.pieces: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        self.window = asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        while (item := await self.pieces.get()) is not None:
            data, credit = item
            self._session.h2.acknowledge_received_data(credit, self.number)
            await self._session.flush()
            yield data

    async def start(self, status: int, headers: Headers, length: int | None = None) -> None:
        fields = [(b":status", str(status).encode()), *headers]
        if length is not None:
            fields.append((b"content-length", str(length).encode()))
        self._session.h2.send_headers(self.number, fields)
        await self._session.flush()

    async def write(self, data: bytes) -> None:
        if self.request.method == "HEAD":
            return
        view = memoryview(data)
        while view:
            self.window.clear()
            room = self._session.h2.local_flow_control_window(self.number)
            count = min(room, self._session.h2.max_outbound_frame_size, len(view))
            if count <= 0:
                await self.window.wait()
                continue
            self._session.h2.send_data(self.number, bytes(view[:count]))
            view = view[count:]
            await self._session.flush()

    async def end(self, trailers: Headers | None = None) -> None:
        if trailers:
            self._session.h2.send_headers(self.number, trailers, end_stream=True)
        else:
            self._session.h2.end_stream(self.number)
        await self._session.flush()


class _Session:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle) -> None:
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            validate_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._streams: dict[int, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def run(self) -> None:
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 24)
        await self.flush()
        try:
            while data := await self._reader.read(65_536):
                for event in self.h2.receive_data(data):
                    self._on(event)
                await self.flush()
        except h2.exceptions.ProtocolError:
            await self.flush()
        finally:
            for task in self._tasks:
                task.cancel()

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._begin(event)
        elif isinstance(event, h2.events.DataReceived) and event.stream_id in self._streams:
            credit = event.flow_controlled_length or 0
            self._streams[event.stream_id].pieces.put_nowait((event.data or b"", credit))
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id in self._streams:
            self._streams[event.stream_id].pieces.put_nowait(None)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for stream in self._streams.values():
                stream.window.set()
        elif isinstance(event, h2.events.StreamReset):
            self._streams.pop(event.stream_id, None)

    def _begin(self, event: h2.events.RequestReceived) -> None:
        headers = [(bytes(name), bytes(value)) for name, value in event.headers or []]
        fields = dict(headers)
        request = Request(
            version="2",
            method=fields.get(b":method", b"").decode("latin-1"),
            target=fields.get(b":path", b"").decode("latin-1"),
            headers=headers,
            head=b"".join(name + b": " + value + b"\r\n" for name, value in headers),
        )
        stream = _Stream(self, event.stream_id or 0, request)
        self._streams[stream.number] = stream
        task = asyncio.get_running_loop().create_task(self._answer(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, stream: _Stream) -> None:
        try:
            await self._handle(stream)
        except (OSError, h2.exceptions.ProtocolError):
            self._writer.transport.abort()
        finally:
            self._streams.pop(stream.number, None)


async def serve_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle) -> None:
    """Answer the streams of one connection until it ends."""
    await _Session(reader, writer, handle).run()
