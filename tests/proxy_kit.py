"""A small proxy between a node and its scheduler, whose connections can be cut."""

import asyncio
import contextlib
import threading

_PIECE = 64 * 1024


class Proxy:
    """Passes connections on to a port of this machine; a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._whole = True
        self.port = 0

    def __enter__(self):
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_):
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """End every connection, and every new one at once."""
        self._whole = False
        self._loop.call_soon_threadsafe(self._end_all)

    def freeze(self) -> None:
        """Let nothing through, without ending anything: as a cable that is pulled."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def mend(self) -> None:
        """As at first; what was held back goes through."""
        self._whole = True
        self._loop.call_soon_threadsafe(self._flows.set)

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self):
        self._flows.set()
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self):
        self._server.close()
        self._end_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _end_all(self):
        for writer in self._writers:
            writer.transport.abort()

    async def _met(self, reader, writer):
        self._writers.add(writer)
        try:
            if not self._whole:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far_writer)
            try:
                ways = ((reader, far_writer), (far_reader, writer))
                await asyncio.gather(*(self._pass(*way) for way in ways))
            finally:
                self._writers.discard(far_writer)
                far_writer.close()
        except OSError:
            # Whoever listened there is gone, or the connection was cut: so it ends here as well.
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pass(self, reader, writer):
        with contextlib.closing(writer):
            while piece := await reader.read(_PIECE):
                await self._flows.wait()
                writer.write(piece)
                await writer.drain()
