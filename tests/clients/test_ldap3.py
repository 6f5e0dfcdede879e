"""ldap3 under rules, against slapd on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import pickle
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import netjail
from netjail import Rules, use_rules
from tests.guard.harness import run_guarded
from tests.servers.ldap import ADMIN, BASE, PASSWORD, Ldap, ldap_server
from tests.servers.names import BAD, GOOD, Names

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses names of pyasn1 that are to go
    import ldap3
    from ldap3.core.exceptions import LDAPExceptionError, LDAPSocketOpenError
    from ldap3.utils.uri import parse_uri

    from netjail.clients.ldap3 import DeniedError, Server

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
NAME = "ldap3"
ALICE = f"cn=alice,{BASE}"
REFERRALS = {
    "back": f"ldap://good.test:PORT/{ALICE}",
    "name": f"ldap://bad.test:PORT/{ALICE}",
    "literal": f"ldap://{BAD}:PORT/{ALICE}",
}

pytestmark = [
    pytest.mark.usefixtures("nothing_left_behind"),
    pytest.mark.filterwarnings("ignore:ssl.match_hostname:DeprecationWarning"),  # ldap3 asks it, where it exists
]


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Ldap]:
    with ldap_server(tmp_path_factory.mktemp("ldap"), pem("good.test"), REFERRALS) as running:
        yield running


def server(port: int, host: str = "good.test", rules: Rules | None = RULES, **options: Any) -> Server:
    return Server(rules, host, port, **{"resolver": Names(), "get_info": ldap3.NONE, "connect_timeout": 5, **options})


def connection(*args: Any, **options: Any) -> Any:
    return ldap3.Connection(*args, **{"user": ADMIN, "password": PASSWORD, **options})


def surname(connected: Any, base: str = ALICE) -> str:
    assert connected.search(base, "(objectClass=*)", ldap3.BASE, attributes=["sn"]), connected.result
    return str(connected.entries[0].sn)


@pytest.mark.proves(NAME, "allowed")
@pytest.mark.parametrize("host", ["good.test", "mixed.test", GOOD, "ldap://good.test"])
def test_a_search_goes_to_an_allowed_name(slapd: Ldap, trap: Make, host: str) -> None:
    trap(BAD, port=slapd.port)
    with connection(server(slapd.port, host)) as connected:
        assert surname(connected) == "Liddell"


@pytest.mark.proves(NAME, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD, f"ldap://{BAD}"])
def test_a_denied_target_opens_nothing(slapd: Ldap, trap: Make, host: str) -> None:
    trap(BAD, port=slapd.port)
    for opening in (lambda made: connection(made).open(), lambda made: connection(made, auto_bind=True)):
        with pytest.raises(DeniedError) as caught:
            opening(server(slapd.port, host))
    assert isinstance(caught.value, LDAPSocketOpenError)
    assert isinstance(caught.value, netjail.DeniedError)
    assert (caught.value.host, caught.value.port) == (host.removeprefix("ldap://"), slapd.port)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (DeniedError, str(caught.value))


def test_the_availability_of_a_denied_target_is_not_looked_for(slapd: Ldap, trap: Make) -> None:
    trap(BAD, port=slapd.port)
    assert server(slapd.port).check_availability()
    with pytest.raises(DeniedError):
        server(slapd.port, "bad.test").check_availability()


@pytest.mark.proves(NAME, "pools")
def test_one_server_is_judged_anew_each_time_that_a_connection_is_opened(slapd: Ldap) -> None:
    shared = server(slapd.port, rules=None)
    with pytest.raises(DeniedError, match="no rules are in force"):
        connection(shared).open()
    with use_rules(RULES), connection(shared) as connected:
        assert surname(connected) == "Liddell"
    with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        connection(shared).open()


@pytest.mark.proves(NAME, "refused")
def test_what_would_dial_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="no address to judge"):
        Server(RULES, "ldapi:///var/run/slapd/ldapi")
    with pytest.raises(ValueError, match="referrals"):
        Server(RULES, "good.test", allowed_referral_hosts=[("*", True)])
    made = Server(RULES, "good.test", 389, False, None, ldap3.NONE, None, None, 7, ldap3.IP_V4_ONLY)
    assert (made.get_info, made.connect_timeout, made.mode) == (ldap3.NONE, 7, ldap3.IP_V4_ONLY)
    with pytest.raises(ValueError, match="referrals"):
        made.allowed_referral_hosts = [("*", True)]
    made.allowed_referral_hosts.append(("*", True))
    assert made.allowed_referral_hosts == []


def follow(connected: Any, made: Callable[[dict[str, Any]], Server]) -> str:
    """The recipe of the page: a referral is followed by a Server of one's own."""
    (uri,) = connected.result["referrals"]
    found = parse_uri(uri)
    with connection(made(found)) as there:
        return surname(there, found["base"])


@pytest.mark.proves(NAME, "announced")
@pytest.mark.parametrize("name", REFERRALS)
@pytest.mark.parametrize("strategy", [ldap3.SYNC, ldap3.RESTARTABLE])
def test_a_referral_is_not_followed_but_by_a_server_of_ones_own(
    slapd: Ldap, trap: Make, name: str, strategy: str
) -> None:
    trap(BAD, port=slapd.port)
    with connection(server(slapd.port), client_strategy=strategy) as connected:
        assert not connected.search(f"ou={name},{BASE}", "(objectClass=*)", ldap3.BASE)
        assert connected.result["description"] == "referral"

        def made(found: dict[str, Any]) -> Server:
            return server(found["port"], found["host"], use_ssl=found["ssl"])

        if name == "back":
            assert follow(connected, made) == "Liddell"
        else:
            with pytest.raises(DeniedError):
                follow(connected, made)


def test_a_pool_of_servers_takes_judged_ones_and_a_denial_ends_its_search(slapd: Ldap, trap: Make) -> None:
    trap(BAD, port=slapd.port)
    good, bad = server(slapd.port), server(slapd.port, "bad.test")
    with connection(ldap3.ServerPool([good, good], ldap3.FIRST, active=True)) as connected:
        assert surname(connected) == "Liddell"
    with pytest.raises(DeniedError):
        connection(ldap3.ServerPool([bad, good], ldap3.FIRST, active=True)).open()


def test_a_restart_is_judged_and_a_denial_ends_it(slapd: Ldap, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trap(BAD, port=slapd.port)
    names = Names({"moving.test": iter([[GOOD], [GOOD], [BAD]])})
    with connection(server(slapd.port, "moving.test", resolver=names), client_strategy=ldap3.RESTARTABLE) as connected:
        monkeypatch.setattr(connected.strategy, "restartable_sleep_time", 0)
        assert surname(connected) == "Liddell"
        connected.socket.shutdown(socket.SHUT_RDWR)
        assert surname(connected) == "Liddell"
        connected.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(DeniedError):
            surname(connected)


@pytest.mark.proves("ldap3, TLS", "allowed", "tls")
@pytest.mark.parametrize("how", ["ldaps", "StartTLS"])
def test_tls_checks_the_name(slapd: Ldap, pem: Make, how: str) -> None:
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(pem("good.test").ca))
    if how == "ldaps":
        with connection(server(slapd.tls_port, use_ssl=True, tls=tls)) as connected:
            assert surname(connected) == "Liddell"
    else:
        connected = connection(server(slapd.port, tls=tls), auto_bind=ldap3.AUTO_BIND_TLS_BEFORE_BIND)
        assert isinstance(connected.socket, ssl.SSLSocket)
        assert surname(connected) == "Liddell"
        connected.unbind()


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # ldap3 leaves it to the collector
@pytest.mark.proves("ldap3, TLS", "wrong-name")
@pytest.mark.parametrize("how", ["ldaps", "StartTLS"])
def test_a_certificate_for_another_name_fails(slapd: Ldap, pem: Make, how: str) -> None:
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(pem("good.test").ca))
    port = slapd.tls_port if how == "ldaps" else slapd.port
    connecting = connection(server(port, "wrong.test", use_ssl=how == "ldaps", tls=tls))
    with pytest.raises(LDAPExceptionError, match=r"wrong\.test"):
        connecting.open() if how == "ldaps" else connecting.start_tls()
    if connecting.socket is not None:
        connecting.socket.close()


@pytest.mark.parametrize("how", ["ldaps", "StartTLS"])
def test_without_tls_options_a_certificate_is_checked_all_the_same(slapd: Ldap, how: str) -> None:
    port = slapd.tls_port if how == "ldaps" else slapd.port
    connecting = connection(server(port, use_ssl=how == "ldaps"))
    with pytest.raises(LDAPExceptionError, match="CERTIFICATE_VERIFY_FAILED"):
        connecting.open() if how == "ldaps" else connecting.start_tls()
    if connecting.socket is not None:
        connecting.socket.close()


@pytest.mark.proves("ldap3, TLS", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_over_tls_too_nothing_is_opened_that_is_denied(slapd: Ldap, trap: Make, host: str) -> None:
    trap(BAD, port=slapd.tls_port)
    with pytest.raises(DeniedError):
        connection(server(slapd.tls_port, host, use_ssl=True)).open()


@pytest.mark.parametrize(
    ("mode", "families"),
    [
        (ldap3.IP_V6_PREFERRED, "664"),
        (ldap3.IP_V4_PREFERRED, "466"),
        (ldap3.IP_SYSTEM_DEFAULT, "646"),
        (ldap3.IP_V6_ONLY, "66"),
        (ldap3.IP_V4_ONLY, "4"),
    ],
)
def test_the_mode_orders_the_accepted_addresses(mode: str, families: str) -> None:
    class Both(Names):
        def lookup(self, host: str, family: int) -> list[str]:
            found = {socket.AF_INET6: ["fd00::1", "fd00::2"], socket.AF_INET: [GOOD, BAD]}
            return found.get(family) or ["fd00::1", GOOD, BAD, "fd00::2"]  # type: ignore[call-overload]

    rules = Rules(allow=["fd00::/8", GOOD])
    addresses = server(389, rules=rules, mode=mode, resolver=Both()).candidate_addresses()
    assert "".join("6" if address[0] == socket.AF_INET6 else "4" for address in addresses) == families
    assert BAD not in {address[4][0] for address in addresses}


@pytest.mark.proves("ldap3, guard", "allowed", "denied", "literal", "announced", "tls", "wrong-name")
def test_a_program_under_the_guard_reaches_what_is_allowed(slapd: Ldap, trap: Make, pem: Make) -> None:
    trap(BAD, port=slapd.port)
    trap(BAD, port=slapd.tls_port)
    lines = run_guarded(
        """
        import ldap3, ssl
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=CA)
        def search(host, base=alice, port=port, secure=False):
            server = ldap3.Server(host, port, use_ssl=secure, tls=tls, get_info=ldap3.NONE)
            with ldap3.Connection(server, user, password) as connection:
                assert connection.search(base, "(objectClass=*)", ldap3.BASE)
        print(outcome(search, "good.test"), outcome(search, "good.test", alice, tls_port, True))
        print(outcome(search, "good.test", "ou=back,dc=test"))
        for target in (["bad.test"], [BAD], ["good.test", "ou=name,dc=test"], ["good.test", "ou=literal,dc=test"]):
            print(outcome(search, *target) == "ok")
        print("wrong.test" in outcome(search, "wrong.test", alice, tls_port, True))
        """,
        CA=str(pem("good.test").ca),
        user=ADMIN,
        password=PASSWORD,
        alice=ALICE,
        port=slapd.port,
        tls_port=slapd.tls_port,
    )
    assert lines == ["ok ok", "ok", *["False"] * 4, "True"]
