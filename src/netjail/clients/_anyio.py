"""The race of a name's addresses on asyncio and on trio, both driven by anyio, for whatever runs on either.

This module is handed addresses that were judged. It knows anyio and trio, and no client library.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from netjail._race import STAGGER, the_error
from netjail._resolver import unresolvable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from netjail._dialer import AsyncConnect, SocketAddress


def in_trio() -> bool:
    """Whether trio runs, and not asyncio."""
    sniffio = sys.modules.get("sniffio")  # trio brings it, and httpcore asks it too
    return sniffio is not None and sniffio.current_async_library() == "trio"


async def by_anyio(connect: AsyncConnect | None, address: SocketAddress, **options: Any) -> Any:
    """An anyio stream to ``address``, made by ``connect`` or else by anyio with its ``options``."""
    if connect is None:
        plain: Any = anyio.connect_tcp
        return await plain(*address, **options)
    sock = await connect(address)
    try:
        return await anyio.abc.SocketStream.from_socket(sock)
    except BaseException:
        sock.close()
        raise


async def by_trio(connect: AsyncConnect | None, address: SocketAddress, *, host: str, **options: Any) -> Any:
    """The same as a stream of trio's. An error names ``host``, which is what was asked for."""
    import trio  # noqa: PLC0415 - it is there, as it runs

    if connect is None:
        try:
            return await trio.open_tcp_stream(*address, **options)
        except OSError as error:  # trio names what it was given, which may be an address from DNS
            asked = f"[{host}]" if ":" in host else host
            raise OSError(f"all attempts to connect to {asked}:{address[1]} failed") from error
    sock = await connect(address)
    try:
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


async def first_stream(
    attempt: Callable[[SocketAddress], Awaitable[Any]], addresses: Sequence[SocketAddress], stagger: float = STAGGER
) -> Any:
    """The connection to the only address, or the first to stand of several, tried ``stagger`` seconds apart."""
    return await (attempt(addresses[0]) if len(addresses) == 1 else _race(attempt, addresses, stagger))


async def _race(
    attempt: Callable[[SocketAddress], Awaitable[Any]], addresses: Sequence[SocketAddress], stagger: float
) -> Any:
    """The first connection to stand, of attempts that begin when the one before has failed or had its time."""
    errors: list[Exception] = []
    winner: Any = None

    async def run(address: SocketAddress, over: anyio.Event) -> None:
        nonlocal winner
        try:
            stream = await attempt(address)
        except Exception as error:  # noqa: BLE001 - the caller raises it if nothing stands
            errors.append(error)
        else:
            if winner is None:
                winner = stream
                group.cancel_scope.cancel()
            else:
                await close(stream)
        finally:
            over.set()

    try:
        async with anyio.create_task_group() as group:
            for address in addresses:
                if winner is None:
                    over = anyio.Event()
                    group.start_soon(run, address, over)
                    with anyio.move_on_after(stagger):
                        await over.wait()
    except BaseException:
        if winner is not None:
            await close(winner)
        raise
    if winner is None:
        raise the_error(errors)
    return winner


async def close(stream: Any) -> None:
    """Closes what nobody will use, in a task that may be cancelled already."""
    with anyio.CancelScope(shield=True):
        await stream.aclose()


class SystemResolver:
    """The system's resolver under asyncio and trio."""

    async def lookup(self, host: str, family: int, /) -> Sequence[str]:
        try:
            answers = await anyio.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
        except ValueError:  # an over-long label or a NUL, and UnicodeError is a ValueError
            raise unresolvable(host) from None
        return [str(sockaddr[0]) for *_, sockaddr in answers]
