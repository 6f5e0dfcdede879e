"""pika under rules: connections whose workflow looks names up through a Dialer, and is handed judged addresses alone.

This module knows pika's workflow and where it asks for addresses. pika itself opens the sockets.
"""

# pika carries no types.
# mypy: disallow-subclassing-any=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pika
from pika import exceptions
from pika.adapters import asyncio_connection, base_connection
from pika.adapters.utils import connection_workflow

from .. import _errors
from .._dialer import Dialer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._dialer import Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["AsyncioConnection", "BlockingConnection", "DeniedError", "SelectConnection", "Workflow"]


class DeniedError(_errors.DeniedError, exceptions.AMQPConnectionError):
    """The rules in force accept no address of the broker; also a ``pika.exceptions.AMQPConnectionError``."""


class Workflow(pika.AMQPConnectionWorkflow):
    """``pika.AMQPConnectionWorkflow`` under rules, for ``create_connection(..., workflow=Workflow(PUBLIC))``.

    ``rules`` and the rules of the context that calls ``create_connection`` must both accept an address;
    with neither, everything is denied. ``resolver`` and ``mixed`` are as in :class:`~netjail.Dialer`. All
    attempts go by the rules of that moment. Of several configurations, one that is denied is passed over;
    when each of them was denied, the workflow ends, whatever ``connection_attempts`` says.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._dialer = Dialer(rules, resolver=resolver, mixed=mixed)
        self._denied: set[int] = set()

    def set_io_services(self, nbio: Any) -> None:
        """Called by pika when a connection is requested, and for it alone."""
        services: Any = _Services(nbio, self._dialer.pinned(self._dialer.rules_in_force()))
        super().set_io_services(services)

    def _on_getaddrinfo_async_done(self, addrinfos_or_exc: Any) -> None:
        """Goes on with the next configuration after a denial, where pika would begin again with the first."""
        found = addrinfos_or_exc
        if isinstance(found, DeniedError):
            self._connection_errors.append(found)
            self._denied.add(self._current_config_index)
            if len(self._denied) == len(self._connection_configs):
                self._attempts_remaining = 0
            found = []
        super()._on_getaddrinfo_async_done(found)


class _Services:
    """pika's I/O services, as a workflow sees them: the addresses that it gets were judged."""

    def __init__(self, plain: Any, dialer: Dialer) -> None:
        self._plain = plain
        self._dialer = dialer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def getaddrinfo(self, host: str, port: int, on_done: Callable[[Any], None], **_wanted: Any) -> _Lookup:
        return _Lookup(partial(self._look_up, host, port), on_done, self._plain.add_callback_threadsafe)

    def _look_up(self, host: str, port: int) -> Any:
        try:
            accepted = self._dialer.resolve((host, port))
        except _errors.DeniedError as denied:
            return DeniedError.of(denied)
        except Exception as error:  # noqa: BLE001 - pika is handed whatever a lookup raises
            return error
        return [
            (socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port))
            for ip, port in accepted
        ]


class _Lookup:
    """A lookup in a thread of its own, as pika's is. The loop gets the answer, unless it was cancelled."""

    def __init__(
        self, look_up: Callable[[], Any], on_done: Callable[[Any], None], in_loop: Callable[..., None]
    ) -> None:
        self._look_up = look_up
        self._on_done: Callable[[Any], None] | None = on_done
        self._in_loop = in_loop
        Thread(target=self._run, daemon=True, name="netjail lookup").start()

    def _run(self) -> None:
        answer = self._look_up()
        if self._on_done is not None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._in_loop(partial(self._hand_over, answer))

    def _hand_over(self, answer: Any) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(answer)

    def cancel(self) -> None:
        self._on_done = None


class BlockingConnection(pika.BlockingConnection):
    """``pika.BlockingConnection`` to what the rules accept: ``BlockingConnection(parameters, rules=PUBLIC)``.

    ``rules``, ``resolver`` and ``mixed`` are as in :class:`Workflow`. Connecting raises
    :class:`DeniedError` and what pika raises.
    """

    def __init__(
        self,
        parameters: Any = None,
        *,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
    ) -> None:
        workflow = Workflow(rules, resolver=resolver, mixed=mixed)
        dialling: Any = SimpleNamespace(
            create_connection=partial(pika.SelectConnection.create_connection, workflow=workflow)
        )
        super().__init__(parameters, _impl_class=dialling)


class _Judged(base_connection.BaseConnection):
    """A connection that makes its own workflow, which is a judging one."""

    def __init__(
        self,
        *plain: Any,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self._new_workflow = partial(Workflow, rules, resolver=resolver, mixed=mixed)  # the plain one begins at once
        super().__init__(*plain, **options)

    def _adapter_connect_stream(self) -> None:
        workflow = self._new_workflow(_until_first_amqp_attempt=True)
        self._connection_workflow = self._start_connection_workflow(
            [self.params], lambda _parameters: self, self._nbio, workflow, self._on_connection_workflow_done
        )

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        """Hands on a denial as itself, and not within the failure of the workflow."""
        if isinstance(conn_or_exc, connection_workflow.AMQPConnectionWorkflowFailed):
            last = conn_or_exc.exceptions[-1]
            conn_or_exc = last if isinstance(last, DeniedError) else conn_or_exc
        super()._on_connection_workflow_done(conn_or_exc)

    @classmethod
    def _start_connection_workflow(
        cls, connection_configs: Any, connection_factory: Any, nbio: Any, workflow: Any, on_done: Any
    ) -> Any:
        """For ``create_connection``, whose own workflow would judge nothing."""
        workflow = Workflow() if workflow is None else workflow
        if not isinstance(workflow, Workflow):
            raise TypeError(f"workflow= is a netjail.clients.pika.Workflow: nothing judges what {workflow!r} dials")
        return super()._start_connection_workflow(connection_configs, connection_factory, nbio, workflow, on_done)


class SelectConnection(_Judged, pika.SelectConnection):
    """``pika.SelectConnection`` to what the rules accept, with its arguments and ``rules=`` and so on.

    A denial reaches ``on_open_error_callback`` as a :class:`DeniedError`. ``create_connection`` takes a
    :class:`Workflow`, without which the rules of the context alone count; any other is a TypeError.
    """


class AsyncioConnection(_Judged, asyncio_connection.AsyncioConnection):
    """``pika.adapters.asyncio_connection.AsyncioConnection``, just as :class:`SelectConnection`."""
