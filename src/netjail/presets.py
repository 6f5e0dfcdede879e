"""Named sets of prefixes, to be used as entries of rules, and the rules for the public internet.

This module knows the registry and Rules. The IANA special-purpose registries are those of RFC 6890.

>>> from netjail import Rules, presets
>>> inside_only = Rules(allow=presets.PRIVATE, block=presets.METADATA)
>>> inside_only.accepts("10.1.2.3"), inside_only.accepts("169.254.169.254")
(True, False)
"""

from ._registry import METADATA as METADATA
from ._registry import REGISTRY_DATE as REGISTRY_DATE
from ._registry import SPECIAL_PURPOSE as SPECIAL_PURPOSE
from ._rules import Rules

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""This host (RFC 1122, RFC 4291)."""

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
"""Private networks (RFC 1918) and unique local addresses (RFC 4193)."""

LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")
"""The local link (RFC 3927, RFC 4291), where cloud metadata services live."""

MULTICAST = ("224.0.0.0/4", "ff00::/8")
"""Groups (RFC 5771, RFC 4291)."""

PUBLIC = Rules(allow=["0.0.0.0/0", "::/0"], block=[*SPECIAL_PURPOSE, *METADATA])
"""The public internet: whatever the registries call globally reachable, less what a cloud provider put there."""
