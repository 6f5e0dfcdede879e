"""What must not be done to the code without a test that fails: one mutant, one line.

A mutant is a file in src/netjail, a passage that occurs in it once, and what stands in its place.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    what: str
    file: str
    old: str
    new: str


ADDRESSES, RULES, BOUNDARIES = "_addresses.py", "_rules.py", "_boundaries.py"
DIALER, RACE, CONTEXT, POOLS, ERRORS = "_dialer.py", "_race.py", "_context.py", "_pools.py", "_errors.py"
RESOLVER, GUARD, ELF, LOOP = "_resolver.py", "guard.py", "_elf.py", "loop.py"
HTTPCORE, URLLIB3, REQUESTS = "clients/_httpcore.py", "clients/urllib3.py", "clients/requests.py"
AIOHTTP, URLLIB, DNS = "clients/aiohttp.py", "clients/urllib.py", "clients/dnspython.py"

MUTANTS = [
    # Where an address lands.
    Mutant("mapped addresses are IPv6", RULES, "return is_mapped(ip) and self._in4(ip & 0xFFFFFFFF)", "return False"),
    Mutant(
        "every mapped address passes",
        RULES,
        "return is_mapped(ip) and self._in4(ip & 0xFFFFFFFF)",
        "return is_mapped(ip)",
    ),
    Mutant(
        "landings are not looked at",
        RULES,
        "return all(self._in4(ip4) for ip4 in embedded(ip, self._nat64))",
        "return True",
    ),
    Mutant("halves that carry are not looked at", RULES, "(*CARRIERS, *self._nat64)]))", "self._nat64]))"),
    Mutant(
        "one landing is enough",
        RULES,
        "return all(self._in4(ip4) for",
        "return not embedded(ip, self._nat64) or any(self._in4(ip4) for",
    ),
    Mutant("own NAT64 is not looked at", RULES, "(*CARRIERS, *self._nat64)]))", "CARRIERS]))"),
    Mutant("compatible forgotten", ADDRESSES, "if ip >> 32 == 0 and ip > 1:", "if False:"),
    Mutant("loopback taken for compatible", ADDRESSES, "if ip >> 32 == 0 and ip > 1:", "if ip >> 32 == 0 and ip > 0:"),
    Mutant("SIIT forgotten", ADDRESSES, "if ip >> 32 == 0xFFFF0000:", "if False:"),
    Mutant("NAT64 forgotten", ADDRESSES, "if ip >> 32 == 0x0064FF9B_00000000_00000000:", "if False:"),
    Mutant("NAT64 local: one layout", ADDRESSES, "found += [_rfc6052(ip, 48), low]", "found += [low]"),
    Mutant(
        "NAT64 local: the other layout", ADDRESSES, "found += [_rfc6052(ip, 48), low]", "found += [_rfc6052(ip, 48)]"
    ),
    Mutant("6to4 forgotten", ADDRESSES, "found.append(ip >> 80 & 0xFFFFFFFF)", "pass"),
    Mutant("Teredo not inverted", ADDRESSES, "found.append(low ^ 0xFFFFFFFF)", "found.append(low)"),
    Mutant("ISATAP: one of two identifiers", ADDRESSES, "0xFDFFFFFF_00000000", "0xFFFFFFFF_00000000"),
    Mutant("ISATAP forgotten where the upper half decides", RULES, "ip & ISATAP_MASK != ISATAP or ", "True or "),
    Mutant("ISATAP forgotten where it does not", ADDRESSES, "if ip & ISATAP_MASK == ISATAP:", "if False:"),
    Mutant("a divided half decides", BOUNDARIES, "if bound & _LOWER}", "if False}"),
    Mutant(
        "behind a half that is looked at, always outside",
        BOUNDARIES,
        "states.append(done & 1)",
        "states.append(OUTSIDE)",
    ),
    Mutant(
        "RFC 6052 runs through bits 64 to 71",
        ADDRESSES,
        "without_u = (ip >> 64 << 56) | (ip & (1 << 56) - 1)",
        "without_u = ip >> 8",
    ),
    Mutant(
        "a zone is dropped",
        ADDRESSES,
        '            return None\n        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address")',
        '            return parse6(text.partition("%")[0])\n        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address")',
    ),
    Mutant(
        "a zone of an object is dropped",
        RULES,
        "return value.scope_id is None and self.accepts(IPv6Address(int(value)))",
        "return self.accepts(IPv6Address(int(value)))",
    ),
    # What a rule set holds.
    Mutant("allow beats block", RULES, "bounds4 = _boundaries.less(bounds4, blocked4)", "pass"),
    Mutant("allow beats block in IPv6", RULES, "bounds6 = _boundaries.less(bounds6, blocked6)", "pass"),
    Mutant(
        "allow and block change places",
        RULES,
        "bounds4 = _boundaries.less(bounds4, blocked4)",
        "bounds4 = _boundaries.less(blocked4, bounds4)",
    ),
    Mutant("0.0.0.0 is not loopback", RULES, "if not _boundaries.contains(bounds4, _LOOPBACK4):", "if False:"),
    Mutant(":: is not loopback", RULES, "if not _boundaries.contains(bounds6, _LOOPBACK6):", "if False:"),
    Mutant(
        "the mapped range counts as IPv6",
        RULES,
        "bounds6 = _boundaries.less(bounds6, _MAPPED)",
        "bounds6 = list(bounds6)",
    ),
    Mutant("a mapped prefix is no IPv4 prefix", RULES, "if (mapped := prefix.unmapped()) is not prefix:", "if False:"),
    Mutant("host bits pass", ADDRESSES, "if start & (1 << BITS[version] - length) - 1:", "if False:"),
    Mutant(
        "a bare string is a list",
        RULES,
        'if isinstance(entries, str | bytes | IPv4Network | IPv6Network) or not hasattr(entries, "__iter__"):',
        'if not hasattr(entries, "__iter__"):',
    ),
    Mutant(
        "equality by identity", RULES, "return self is other or self._digest == other._digest", "return self is other"
    ),
    Mutant(
        "NAT64 is not part of equality",
        RULES,
        "repr((len(data4), len(data6), self._nat64))",
        "repr((len(data4), len(data6)))",
    ),
    Mutant("and takes either", RULES, "_boundaries.intersection(self._bounds4, other._bounds4)", "self._bounds4"),
    Mutant("an interval is one longer", BOUNDARIES, "yield bounds[position], stop - 1", "yield bounds[position], stop"),
    Mutant(
        "the last boundary is outside",
        BOUNDARIES,
        "return bisect_right(bounds, number) & 1 == 1",
        "return bisect_left(bounds, number) & 1 == 1",
    ),
    Mutant(
        "a mixed block is inside",
        BOUNDARIES,
        "return state == 1 if state < 2 else",
        "return state >= 1 if state < 3 else",
    ),
    Mutant("a verdict by other versions", RULES, "return (4, 6) if self._in6 else (4,)", "return (4, 6)"),
    # The context.
    Mutant(
        "the context widens",
        CONTEXT,
        "rules = (carried,) if given is None or given is carried else (given, carried)",
        "rules = (carried,)",
    ),
    Mutant(
        "given rules forget the context",
        CONTEXT,
        "rules = (carried,) if given is None or given is carried else (given, carried)",
        "rules = (carried,) if given is None else (given,)",
    ),
    Mutant("floors are forgotten", CONTEXT, "return (*rules, *floors) if floors and rules else rules", "return rules"),
    Mutant(
        "floors give access",
        CONTEXT,
        "return (*rules, *floors) if floors and rules else rules",
        "return (*rules, *floors)",
    ),
    Mutant(
        "rules are not restored",
        CONTEXT,
        "            carried_rules.reset(token)\n        except ValueError:  # that",
        "            pass\n        except ValueError:  # that",
    ),
    # Dialing.
    Mutant(
        "no rules are all rules",
        DIALER,
        '    if not rules:\n        raise DeniedError(host, port, reason="no rules are in force (give rules, or use netjail.use_rules)")\n',
        '    if not rules:\n        return [Rules(allow=["0.0.0.0/0", "::/0"])]\n',
    ),
    Mutant(
        "one rule set of several is enough",
        DIALER,
        "    for address in addresses if rules else ():\n        for each in rules:\n",
        "    for address in addresses if rules else ():\n        for each in rules[:1]:\n",
    ),
    Mutant(
        "empty rules ask DNS",
        DIALER,
        '    if not ip4 and not ip6:\n        raise DeniedError(host, port, reason="the rules in force accept no address for it")\n',
        "",
    ),
    Mutant("IPv4-only rules ask for IPv6", DIALER, "ip6 = ip6 and 6 in each.versions", "ip6 = True"),
    Mutant(
        "mixed is always skipped",
        DIALER,
        'if accepted and (mixed == "skip" or len(accepted) == len(addresses)):',
        "if accepted:",
    ),
    Mutant(
        "it dials all that was answered",
        DIALER,
        "        return accepted\n    decisions",
        "        return [str(address) for address in addresses]\n    decisions",
    ),
    Mutant(
        "the first answer alone is judged",
        DIALER,
        "    for address in addresses if rules else ():\n        for each in rules:\n            if not each.accepts(address):\n                break",
        "    for number, address in enumerate(addresses if rules else ()):\n        for each in rules:\n            if number == 0 and not each.accepts(address):\n                break",
    ),
    Mutant(
        "literals are not judged",
        DIALER,
        "            judge(rules, host, port, [host])\n            return [(host, port)]\n        family = query_family",
        "            return [(host, port)]\n        family = query_family",
    ),
    Mutant(
        "literals are not judged, async",
        DIALER,
        "            judge(rules, host, port, [host])\n            return [(host, port)]\n        lookup",
        "            return [(host, port)]\n        lookup",
    ),
    Mutant(
        "it resolves twice",
        DIALER,
        "            answer = self._resolver.lookup(host, family)\n",
        "            answer = self._resolver.lookup(host, family)\n            judge(rules, host, port, answered(host, answer), self._mixed)\n            answer = self._resolver.lookup(host, family)\n",
    ),
    Mutant(
        "it dials the name",
        DIALER,
        "        return in_dial_order(judge(rules, host, port, answered(host, answer), self._mixed), port)\n",
        "        return [(host, port) for _ in judge(rules, host, port, answered(host, answer), self._mixed)]\n",
    ),
    Mutant(
        "TLS checks the address",
        DIALER,
        "tls = context.wrap_socket(sock, server_hostname=server_hostname or _target(address)[0])",
        "tls = context.wrap_socket(sock, server_hostname=sock.getpeername()[0])",
    ),
    Mutant(
        "TLS checks nothing",
        DIALER,
        "        context = ssl.create_default_context() if context is None else context\n",
        "        context = ssl.create_default_context() if context is None else context\n        context.check_hostname = False\n",
    ),
    Mutant(
        "a failed connect stays open",
        DIALER,
        "                sock.connect(accepted[0])\n            except BaseException:\n                sock.close()\n",
        "                sock.connect(accepted[0])\n            except BaseException:\n",
    ),
    Mutant(
        "what a str says of itself is dialled",
        DIALER,
        "return str.__str__(address) if isinstance(address, str) else str(address)",
        "return str(address)",
    ),
    Mutant("a literal's family is no matter", DIALER, 'if (":" in each[0]) == (family == socket.AF_INET6)', "if True"),
    Mutant("a mapped address is not of IPv4's family", DIALER, "(unmapped(ip), port)", "(ip, port)"),
    Mutant(
        "a pinned dialer dials by the context",
        DIALER,
        "in_force_here = in_force(self._rules) if self._pinned is None else self._pinned",
        "in_force_here = in_force(self._rules)",
    ),
    Mutant(
        "a pinned dialer reads the context",
        DIALER,
        "return in_force(self._rules) if self._pinned is None else self._pinned",
        "return in_force(self._rules)",
    ),
    Mutant(
        "the deadline leaves the lookup out",
        DIALER,
        "            answer = within(timeout, lambda: self._resolver.lookup(host, family))",
        "            answer = self._resolver.lookup(host, family)",
    ),
    Mutant(
        "losers of a race stay open",
        RACE,
        "            if sock is not self.winner:\n                sock.close()",
        "            pass",
    ),
    Mutant(
        "a late connection stays open",
        RACE,
        "            elif outcome[0] is not None:\n                outcome[0].close()",
        "",
    ),
    Mutant(
        "a cancelled race forgets its winner",
        RACE,
        "                winner.result().close()\n            raise",
        "                pass\n            raise",
    ),
    Mutant(
        "async losers stay open",
        RACE,
        "            task.add_done_callback(_close)  # it may connect, or have connected, as well\n",
        "",
    ),
    Mutant(
        "one dead address stops all", RACE, "pause = min(STAGGER, left or STAGGER) if waiting else left", "pause = left"
    ),
    Mutant(
        "an attempt whose time is over is given up",
        RACE,
        "                self._watch(sock, address)\n",
        "                self._failed(sock, error)\n",
    ),
    Mutant("a bad port reaches the resolver", RESOLVER, "if not 0 <= number <= 0xFFFF:", "if False:"),
    # Errors.
    Mutant(
        "the message tells addresses",
        ERRORS,
        'port {port}: {reason}")\n\n    def __str__',
        'port {port}: {reason} {self.decisions}")\n\n    def __str__',
    ),
    Mutant(
        "a denial has one argument", ERRORS, 'super().__init__(errno.EACCES, f"netjail', 'super().__init__(f"netjail'
    ),
    Mutant("groups are not searched", ERRORS, "if isinstance(item, BaseExceptionGroup):", "if False:"),
    Mutant(
        "properties of an error are run",
        ERRORS,
        'held: dict[str, object] = getattr(item, "__dict__", {})',
        'held: dict[str, object] = {name: getattr(item, name, None) for name in ("reason", "exception", "exceptions")}',
    ),
    Mutant("contexts are not searched", ERRORS, "item.__context__, ", ""),
    # Pools.
    Mutant(
        "one pool for all",
        POOLS,
        "entry = self._entries.get(key)  # hashed",
        "key = None; entry = self._entries.get(key)  # hashed",
    ),
    Mutant("pools are never let go", POOLS, "if len(self._entries) >= self._limit:", "if False:"),
    Mutant("the most recently used goes", POOLS, "min(self._entries, key=", "max(self._entries, key="),
    Mutant("the same pool twice", POOLS, "if pool in self._made:", "if False:"),
    # Clients.
    Mutant(
        "httpx: one pool for all rules",
        HTTPCORE,
        "        transport = self._transports.get(in_force(self._given))\n        try:\n            response = transport.handle_request",
        "        transport = self._transports.get(())\n        try:\n            response = transport.handle_request",
    ),
    Mutant(
        "httpx: a denial is a failed connect",
        HTTPCORE,
        "        if isinstance(error, DeniedError):\n            return self.denied.of(error)\n",
        "",
    ),
    Mutant("httpx: proxy= passes", HTTPCORE, 'for name in ("proxy", "uds"):', 'for name in ("uds",):'),
    Mutant("httpx: unix sockets pass", HTTPCORE, "        if pool._uds is not None:\n", "        if False:\n"),
    Mutant(
        "httpx: async, one pool for all rules",
        HTTPCORE,
        "        transport = self._transports.get(in_force(self._given))\n        if self._orphans.pools:",
        "        transport = self._transports.get(())\n        if self._orphans.pools:",
    ),
    Mutant("httpx: new= may have a proxy", HTTPCORE, 'if getattr(pool, "_proxy", None) is not None:', "if False:"),
    Mutant(
        "urllib3: a pool kept by hand serves anybody",
        URLLIB3,
        "if in_force(self._given) != self._judged_under:",
        "if False:",
    ),
    Mutant("urllib3: one pool for all rules", URLLIB3, "key: Any = (dialer, pool_key)", "key: Any = (None, pool_key)"),
    Mutant(
        "urllib3: proxies pass",
        URLLIB3,
        "    if conn.proxy or conn._tunnel_host:\n        raise ValueError(NO_PROXY)\n",
        "",
    ),
    Mutant(
        "urllib3: a denial is retried",
        URLLIB3,
        "    except Denied as denied:\n        raise _carried(pool(), denied) from denied\n",
        "",
    ),
    Mutant(
        "urllib3: a pool does not tell of a denial",
        URLLIB3,
        "    pool._put_conn = partial(_put_or_tell, weakref.ref(pool))\n",
        "",
    ),
    Mutant("requests: the environment is asked", REQUESTS, "self.trust_env = False", "self.trust_env = True"),
    Mutant(
        "requests: proxies= passes",
        REQUESTS,
        "        if proxies:\n            self._leave_out(proxies, request)\n        try:\n            return super().send(request, stream, timeout, verify, cert)",
        "        try:\n            return super().send(request, stream, timeout, verify, cert, proxies)",
    ),
    Mutant(
        "aiohttp: literals are not judged",
        AIOHTTP,
        "        if type(port) is not _Accepted or port.jail is not self or port.ip != ip:\n            self._judge(ip, port)\n",
        "",
    ),
    Mutant(
        "aiohttp: one connector for all rules",
        AIOHTTP,
        "self._pools.get(in_force(self._given))",
        "self._pools.get((self._given,) if self._given else ())",
    ),
    Mutant("aiohttp: a proxy passes", AIOHTTP, "if req.proxy is not None:", "if False:"),
    Mutant(
        "urllib: redirects go by plain handlers",
        URLLIB,
        "_HTTPHandler(dialer), _HTTPSHandler(dialer, context), *given]",
        "urllib.request.HTTPHandler(), _HTTPSHandler(dialer, context), *given]",
    ),
    Mutant("dnspython: no cap", DNS, "if len(addresses) > self._max_answers:", "if False:"),
    Mutant(
        "dnspython: no deadline",
        DNS,
        "answers = self._resolver.resolve_name(host, family, lifetime=self._lifetime)\n        except",
        "answers = self._resolver.resolve_name(host, family)\n        except",
    ),
    # Guard and loop.
    Mutant("guard: names pass", GUARD, "if not is_address:", "if False:"),
    Mutant("guard: a zone by number passes", GUARD, "        if scope:\n", "        if False:\n"),
    Mutant(
        "guard: any listener is a wake-up", GUARD, "and listener.getsockname()[:2] == tuple(address[:2])", "and True"
    ),
    Mutant(
        "guard: any function makes wake-ups",
        GUARD,
        "if bound.frame != id(frame) or bound.code is not frame.f_code:",
        "if False:",
    ),
    Mutant(
        "guard: a patched socket is not judged", GUARD, "_Socket = _socket.socket  #", "_Socket = socket.SocketType  #"
    ),
    Mutant("guard: strict goes by names alone", GUARD, "known or _may_dial(name, filename)", "known"),
    Mutant("guard: ctypes opens anything", GUARD, "if self.strict and could_dial(file):", "if False:"),
    Mutant("guard: what a library needs is not read", ELF, "to_read += [", "_ = ["),
    Mutant(
        "guard: a callback has the worker's rules",
        GUARD,
        "add_done_callback(self, partial(_under, carried_rules.get(), fn))",
        "add_done_callback(self, fn)",
    ),
    Mutant(
        "guard: a later call makes a wake-up",
        GUARD,
        "if not any(each is listener for",
        "if False and any(each is listener for",
    ),
    Mutant("guard: sends are not judged", GUARD, '"socket.sendto": guard.dial,', '"socket.sendto": lambda *_: None,'),
    Mutant(
        "guard: a job has no rules",
        GUARD,
        "return submit(self, _under, carried_rules.get(), fn",
        "return submit(self, _under, None, fn",
    ),
    Mutant(
        "guard: threads start without rules",
        GUARD,
        "            carried_rules.set(rules)\n            run()",
        "            run()",
    ),
    Mutant(
        "guard: a second floor replaces the first",
        GUARD,
        "            floors.append(floor)\n",
        "            floors[:] = [floor]\n",
    ),
    Mutant(
        "loop: sock_connect is not judged",
        LOOP,
        "await super().sock_connect(sock, await destination(self._netjail, sock, address))",
        "await super().sock_connect(sock, address)",
    ),
    Mutant(
        "loop: an open datagram endpoint passes",
        LOOP,
        "    if remote_addr is None:\n        raise _anybody()\n",
        "    if remote_addr is None:\n        return await plain(protocol_factory, local_addr, remote_addr, **options)\n",
    ),
]
