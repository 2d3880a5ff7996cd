"""A bad network between client and broker: a proxy that cuts, delays, throttles and swallows.

As with lost packets, nothing is ever altered or taken out of the middle: what a black hole has
swallowed is still under way, as in a kernel that sends again, and arrives when the network heals or
never. Not even the end of a connection gets through before, so the other side's is half open.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

_CHUNK_BYTES = 16_384
_CHUNKS_UNDER_WAY = 64
_SLICES_PER_S = 50
_PATIENCE_S = 10.0
# On, for no time: close then sends RST, and drops what was not sent.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Stands between clients and a broker on 127.0.0.1. Use as a context manager.

    Its methods may be called from any thread; what they ask for has happened when they return.

    Args:
        port: The broker's port.

    Attributes:
        port: Where clients connect to.
        connections: How many connections it has passed on so far.
        last_down: When it has last sent something to a client, seconds since 1970.
    """

    def __init__(self, port: int) -> None:
        self._broker = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self.last_down = 0.0
        self._latency_s = 0.0
        self._bytes_per_s: float | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._held = asyncio.Event()  # something has come down and cannot go on
        self._up.set()
        self._down.set()
        self._tasks: dict[asyncio.Task[None], list[socket.socket]] = {}
        self._errors: list[BaseException] = []

    @property
    def url(self) -> str:
        """Its address, without TLS."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def live(self) -> int:
        """Connections that have not ended."""
        return len(self._tasks)

    def __enter__(self) -> Self:
        self._thread.start()
        self._accepting = asyncio.run_coroutine_threadsafe(self._accept(), self._loop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._accepting.cancel()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._server.close()
        if self._errors and error is None:
            raise self._errors[0]

    def cut(self, *, reset: bool = True) -> None:
        """Ends all connections, by RST towards both sides or by FIN."""
        self._do(self._end_all(reset=reset))

    def cut_unheard(self, *, reset: bool = True) -> None:
        """Ends all connections as the broker has said something that its client will not hear.

        For clients that are connected and busy: an acknowledgement, most likely.

        Raises:
            TimeoutError: The broker has said nothing.
        """
        self._do(self._end_unheard(reset=reset))

    def delay(self, latency_s: float) -> None:
        """Everything arrives so many seconds later, either way."""
        self._latency_s = latency_s

    def throttle(self, bytes_per_s: float | None) -> None:
        """No more goes through in a second, for each connection and either way."""
        self._bytes_per_s = bytes_per_s

    def blackhole(self, *, up: bool = True, down: bool = True) -> None:
        """From now on nothing arrives, and nobody is told.

        Args:
            up: Of what the clients send.
            down: Of what the broker sends.
        """
        self._do(self._swallow(up=up, down=down))

    def heal(self) -> None:
        """No fault any more. What was swallowed arrives, unless its sender was cut off since."""
        self._latency_s, self._bytes_per_s = 0.0, None
        self._do(self._swallow(up=False, down=False))

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(_PATIENCE_S + 20.0)

    async def _swallow(self, *, up: bool, down: bool) -> None:
        for event, swallowed in ((self._up, up), (self._down, down)):
            if swallowed:
                event.clear()
            else:
                event.set()

    async def _end_unheard(self, *, reset: bool) -> None:
        self._held.clear()
        self._down.clear()
        try:
            await asyncio.wait_for(self._held.wait(), _PATIENCE_S)
            await self._end_all(reset=reset)
        finally:
            self._down.set()

    async def _end_all(self, *, reset: bool) -> None:
        tasks = list(self._tasks)
        for task, ends in list(self._tasks.items()):
            if reset:
                for end in ends:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._server)
            client.setblocking(False)
            ends = [client]
            task = self._loop.create_task(self._serve(ends))
            self._tasks[task] = ends
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        for end in self._tasks.pop(task):
            end.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    async def _serve(self, ends: list[socket.socket]) -> None:
        [client] = ends
        if not (self._up.is_set() and self._down.is_set()):
            # In a black hole nobody connects. Afterwards the client has to try again.
            await self._up.wait()
            await self._down.wait()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return
        broker = socket.socket()
        ends.append(broker)
        for end in ends:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(broker, self._broker)
            self.connections += 1
            # Each way ends by itself, as one half of a TCP connection does.
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(client, broker, self._up))
                ways.create_task(self._carry(broker, client, self._down))
        except* OSError:
            # One side has reset the connection: so does the other, once that gets through.
            await self._up.wait()
            await self._down.wait()
            for end in ends:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def _carry(self, source: socket.socket, sink: socket.socket, way: asyncio.Event) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_UNDER_WAY)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._send(queue, sink, way))
            data = b"?"
            while data:
                await way.wait()
                data = await self._loop.sock_recv(source, self._slice_bytes())
                await queue.put((time.monotonic() + self._latency_s, data))

    def _slice_bytes(self) -> int:
        if self._bytes_per_s is None:
            return _CHUNK_BYTES
        return min(max(int(self._bytes_per_s / _SLICES_PER_S), 1), _CHUNK_BYTES)

    async def _send(
        self, queue: asyncio.Queue[tuple[float, bytes]], sink: socket.socket, way: asyncio.Event
    ) -> None:
        free_at = 0.0
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(due, free_at) - time.monotonic())
            if self._bytes_per_s is not None:
                free_at = max(free_at, time.monotonic()) + len(data) / self._bytes_per_s
            if way is self._down and not way.is_set():
                self._held.set()
            await way.wait()
            if not data:
                with suppress(OSError):  # it may have gone already
                    sink.shutdown(socket.SHUT_WR)
                return
            if way is self._down:
                self.last_down = time.time()
            await self._loop.sock_sendall(sink, data)
