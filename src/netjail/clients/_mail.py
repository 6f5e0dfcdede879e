"""What the standard library's three mail clients share under rules: their arguments, and TLS that checks by default.

This module knows none of the three.
"""

from __future__ import annotations

import inspect
import ssl
from typing import TYPE_CHECKING, Any

from .._dialer import Dialer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._dialer import Connect, Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource


class Ruled:
    """A client that dials when it is made; it takes the plain one's arguments, and those of a Dialer as keywords."""

    def __init__(
        self,
        *plain: Any,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)  # the plain one dials at once
        super().__init__(*plain, **options)


def verified(name: str, plain: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the method ``plain`` by name, with a TLS context ``name`` that by default checks all.

    The plain clients' own default checks neither certificate nor name. What is positional is another thing from
    Python 3.12 on, where ``keyfile`` and ``certfile`` are no more.
    """
    by_name = inspect.signature(plain).bind_partial(None, *given).arguments
    by_name.pop("self")
    if twice := by_name.keys() & options.keys():
        raise TypeError(f"{plain.__name__}() got multiple values for argument {min(twice)!r}")
    options = {**by_name, **options}
    if options.get(name) is None:
        context = ssl.create_default_context()
        certificate, key = options.pop("certfile", None), options.pop("keyfile", None)  # until Python 3.12
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        options[name] = context
    return options
