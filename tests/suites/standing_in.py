"""Putting ours in the place of what a suite finds under the client's names.

It knows no client; each table says what stands in for what.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any


def stand_in(ours: Any, plain: Any, rules: Any, **more: Any) -> Any:
    """A class of ours that is made under ``rules`` with the arguments of ``plain``, in their order.

    It goes by the name of ``plain``, and ``more`` are further attributes of it.
    """
    order = list(inspect.signature(plain.__init__).parameters)[1:]

    def init(self: Any, *args: Any, **options: Any) -> None:
        options.update(zip(order, args, strict=False))
        ours.__init__(self, *rules_for(options, rules), **options)

    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": ours.__doc__}
    return type(ours)(plain.__name__, (ours,), {"__init__": init, **names, **more})


def rules_for(options: dict[str, Any], rules: Any) -> tuple[Any, ...]:
    """Nothing where there is a pool of ours among ``options``, which has its rules."""
    return () if options.get("connection_pool") is not None else (rules,)


def put(package: str, plain: Any, ours: Any) -> None:
    """Has every module of ``package`` that knows ``plain`` by some name know ``ours`` by it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package:
            for known in [known for known, value in vars(module).items() if value is plain]:
                setattr(module, known, ours)


def as_it_is(module: types.ModuleType, *parts: str) -> Any:
    """``module`` as it is now, for those that are to know the plain things still, and so its ``parts``."""
    found = types.SimpleNamespace(**vars(module))
    for part in parts:
        setattr(found, part, types.SimpleNamespace(**vars(getattr(module, part))))
    return found
