"""One rule set says which addresses this program may connect to, and every client obeys it."""

from . import presets as presets
from ._context import current_rules as current_rules
from ._context import use_rules as use_rules
from ._dialer import AsyncDialer as AsyncDialer
from ._dialer import Dialer as Dialer
from ._dialer import create_connection as create_connection
from ._dialer import open_connection as open_connection
from ._errors import DeniedError as DeniedError
from ._errors import InvalidRuleError as InvalidRuleError
from ._errors import NetjailError as NetjailError
from ._errors import find_denied as find_denied
from ._resolver import AsyncResolver as AsyncResolver
from ._resolver import Resolver as Resolver
from ._rules import Decision as Decision
from ._rules import Rules as Rules
from .presets import PUBLIC as PUBLIC

__all__ = [
    "PUBLIC",
    "AsyncDialer",
    "AsyncResolver",
    "Decision",
    "DeniedError",
    "Dialer",
    "InvalidRuleError",
    "NetjailError",
    "Resolver",
    "Rules",
    "create_connection",
    "current_rules",
    "find_denied",
    "open_connection",
    "presets",
    "use_rules",
]
