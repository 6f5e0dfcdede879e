"""What the standard library's three mail clients share under rules: their arguments, and TLS that checks by default.

This module knows none of the three.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from .._dialer import Dialer

if TYPE_CHECKING:
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


def verified(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with a TLS context called ``name``, by default one that checks certificate and name.

    The plain clients' own default checks neither.
    """
    if options.get(name) is None:
        context = ssl.create_default_context()
        certificate, key = options.pop("certfile", None), options.pop("keyfile", None)  # until Python 3.12
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        options[name] = context
    return options
