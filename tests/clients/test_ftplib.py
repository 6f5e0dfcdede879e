"""ftplib under rules, against pyftpdlib on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import ftplib
import io
import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest

import netjail
from netjail import Rules, use_rules
from netjail.clients.ftplib import FTP, FTP_TLS, DeniedError
from tests.guard.harness import run_guarded
from tests.servers.daemon import Daemon, free_port
from tests.servers.ftp import CONTENT, FILE, PASSWORD, USER, ftp_server
from tests.servers.names import BAD, GOOD, Names

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
NAME, NAME_TLS = "ftplib", "ftplib, TLS"

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


class Hostile(NamedTuple):
    """A server that announces the denied address for its data, and the ports that it announces."""

    port: int
    announced: tuple[int, int]

    def trapped(self, trap: Make) -> None:
        for port in (self.port, *self.announced):
            trap(BAD, port=port)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Daemon]:
    with ftp_server(tmp_path_factory.mktemp("ftp"), pem("good.test")) as running:
        yield running


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Hostile]:
    announced = free_port()
    folder = tmp_path_factory.mktemp("ftp")
    with ftp_server(folder, pem("good.test"), announced=BAD, data_port=announced) as running:
        yield Hostile(running.port, (announced, announced + 1))


def opened(port: int, host: str = "good.test", rules: Rules | None = RULES, **options: Any) -> FTP:
    ftp = FTP(rules, **{"resolver": Names(), "timeout": 5, **options})
    ftp.connect(host, port)
    ftp.login(USER, PASSWORD)
    return ftp


def fetched(ftp: ftplib.FTP) -> bytes:
    got = io.BytesIO()
    ftp.retrbinary(f"RETR {FILE}", got.write)
    return got.getvalue()


@pytest.mark.proves(NAME, "allowed")
@pytest.mark.parametrize("host", ["good.test", "mixed.test", GOOD])
def test_files_come_from_an_allowed_name(server: Daemon, trap: Make, host: str) -> None:
    trap(BAD, port=server.port)
    with opened(server.port, host) as ftp:
        assert FILE in ftp.nlst()
        assert fetched(ftp) == CONTENT
        assert ftp.storbinary("STOR up.txt", io.BytesIO(b"up")).startswith("226")
        got = io.BytesIO()
        ftp.retrbinary(f"RETR {FILE}", got.write, rest=10)
        assert got.getvalue() == CONTENT[10:]
        data, size = ftp.ntransfercmd(f"RETR {FILE}")
        data.close()
        assert size in (None, len(CONTENT))
        ftp.close()


@pytest.mark.proves(NAME, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
@pytest.mark.parametrize("kind", [FTP, FTP_TLS])
def test_a_denied_target_opens_nothing(server: Daemon, trap: Make, host: str, kind: Any) -> None:
    trap(BAD, port=server.port)
    ftp = kind(RULES, resolver=Names())
    with pytest.raises(DeniedError) as caught:
        ftp.connect(host, server.port)
    assert isinstance(caught.value, ftplib.all_errors)
    assert DeniedError is netjail.DeniedError
    assert (caught.value.host, caught.value.port) == (host, server.port)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_constructor_connects_as_the_plain_one_does(trap: Make) -> None:
    with pytest.raises(DeniedError) as caught:
        FTP(RULES, "bad.test", USER, PASSWORD, timeout=5, encoding="utf-8", resolver=Names())
    assert caught.value.port == ftplib.FTP_PORT
    made: Any = FTP(RULES, "", "", "", "", 7, (GOOD, 0))  # in the plain one's order
    assert (made.timeout, made.source_address) == (7, (GOOD, 0))


def test_without_rules_everything_is_denied_and_the_context_gives_some(server: Daemon) -> None:
    with pytest.raises(DeniedError, match="no rules are in force"):
        opened(server.port, rules=None)
    with use_rules(RULES), opened(server.port, rules=None) as ftp:
        assert FILE in ftp.nlst()


def test_data_goes_by_the_rules_of_its_control_connection(server: Daemon) -> None:
    """A transfer under narrower rules is one of the same session; the next session is judged anew."""
    with opened(server.port) as ftp, use_rules(Rules()):
        assert fetched(ftp) == CONTENT
        with pytest.raises(DeniedError):
            ftp.connect("good.test", server.port)
    with use_rules(RULES):
        ftp = opened(server.port, rules=None)
    with ftp:
        assert fetched(ftp) == CONTENT


@pytest.mark.proves(NAME, "announced")
def test_an_address_that_the_server_announces_is_judged(hostile: Hostile, trap: Make) -> None:
    hostile.trapped(trap)
    with opened(hostile.port) as ftp:
        ftp.trust_server_pasv_ipv4_address = True  # type: ignore[attr-defined]
        with pytest.raises(DeniedError) as caught:
            ftp.nlst()
        assert caught.value.host == BAD
        assert caught.value.port in hostile.announced
    with opened(hostile.port) as ftp:  # which by default dials the address that it has
        assert fetched(ftp) == CONTENT


def test_extended_passive_mode_dials_the_address_of_the_control_connection(
    tmp_path_factory: pytest.TempPathFactory, pem: Make
) -> None:
    """EPSV, which ftplib uses for IPv6, names a port alone."""
    with ftp_server(tmp_path_factory.mktemp("ftp"), pem("good.test"), "::1") as server:
        names = Names({"six.test": ["::1"]})
        with opened(server.port, "six.test", Rules(allow=["::1"]), resolver=names) as ftp:
            assert ftp.af == socket.AF_INET6
            assert fetched(ftp) == CONTENT


def test_in_active_mode_the_server_connects_to_us(server: Daemon) -> None:
    with opened(server.port) as ftp:
        ftp.set_pasv(False)
        assert fetched(ftp) == CONTENT


def test_a_refused_transfer_closes_its_connection(server: Daemon) -> None:
    with opened(server.port) as ftp, pytest.raises(ftplib.error_perm):
        ftp.retrbinary("RETR nowhere.txt", print)


def test_a_connect_of_ones_own_makes_both_connections(server: Daemon) -> None:
    asked: list[Any] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        asked.append(address)
        return socket.create_connection(address, timeout)

    with opened(server.port, connect=connect) as ftp:
        assert fetched(ftp) == CONTENT
    assert [address for address, _ in asked] == [GOOD, GOOD]
    assert asked[0][1] == server.port != asked[1][1]


def test_a_timeout_of_nothing_is_refused_as_ftplib_does() -> None:
    with pytest.raises(ValueError, match="Non-blocking"):
        opened(1, timeout=0)


@pytest.mark.proves(NAME_TLS, "allowed", "tls")
def test_both_connections_are_checked_for_the_name(server: Daemon, client_tls: ssl.SSLContext) -> None:
    with FTP_TLS(RULES, context=client_tls, resolver=Names(), timeout=5) as ftp:
        ftp.connect("good.test", server.port)
        ftp.login(USER, PASSWORD)
        ftp.prot_p()
        assert isinstance(ftp.sock, ssl.SSLSocket)
        with ftp.transfercmd(f"RETR {FILE}") as data:
            assert isinstance(data, ssl.SSLSocket)
            assert data.recv(5) == b"hello"


@pytest.mark.proves(NAME_TLS, "wrong-name")
def test_a_certificate_for_another_name_fails(server: Daemon, client_tls: ssl.SSLContext) -> None:
    with FTP_TLS(RULES, context=client_tls, resolver=Names(), timeout=5) as ftp:
        ftp.connect("wrong.test", server.port)
        with pytest.raises(ssl.SSLCertVerificationError):
            ftp.login(USER, PASSWORD)


def test_data_is_checked_for_the_name_as_well(server: Daemon, client_tls: ssl.SSLContext) -> None:
    ftp = FTP_TLS(RULES, context=client_tls, resolver=Names(), timeout=5)
    with closing(ftp):
        ftp.connect("good.test", server.port)
        ftp.login(USER, PASSWORD)
        ftp.prot_p()
        ftp.host = "wrong.test"  # as if the data came from somewhere else
        with pytest.raises(ssl.SSLCertVerificationError):
            ftp.transfercmd(f"RETR {FILE}")


def test_without_a_context_a_certificate_is_checked_all_the_same(server: Daemon) -> None:
    with FTP_TLS(RULES, resolver=Names(), timeout=5) as ftp:
        ftp.connect("good.test", server.port)
        with pytest.raises(ssl.SSLCertVerificationError):
            ftp.auth()


@pytest.mark.proves(NAME_TLS, "denied", "literal", "announced")
def test_over_tls_too_nothing_is_opened_that_is_denied(
    hostile: Hostile, trap: Make, client_tls: ssl.SSLContext
) -> None:
    hostile.trapped(trap)
    with FTP_TLS(RULES, context=client_tls, resolver=Names(), timeout=5) as ftp:
        for host in ("bad.test", BAD):
            with pytest.raises(DeniedError):
                ftp.connect(host, hostile.port)
        ftp.connect("good.test", hostile.port)
        ftp.login(USER, PASSWORD)
        ftp.prot_p()
        ftp.trust_server_pasv_ipv4_address = True  # type: ignore[attr-defined]
        with pytest.raises(DeniedError):
            ftp.nlst()


@pytest.mark.proves("ftplib, guard", "allowed", "denied", "literal", "announced", "tls", "wrong-name")
def test_a_program_under_the_guard_reaches_what_is_allowed(
    server: Daemon, hostile: Hostile, trap: Make, pem: Make
) -> None:
    trap(BAD, port=server.port)
    hostile.trapped(trap)
    lines = run_guarded(
        """
        import ftplib, ssl
        tls = ssl.create_default_context(cafile=CA)
        def names(host, port, trust=False):
            with ftplib.FTP_TLS(context=tls, timeout=5) as ftp:
                ftp.connect(host, port)
                ftp.login(user, password)
                ftp.prot_p()
                ftp.trust_server_pasv_ipv4_address = trust
                assert ftp.nlst()
        print(outcome(names, "good.test", honest), outcome(names, "bad.test", honest), outcome(names, BAD, honest))
        print(outcome(names, "good.test", hostile, True))
        print("CERTIFICATE_VERIFY_FAILED" in outcome(names, "wrong.test", honest))
        """,
        CA=str(pem("good.test").ca),
        user=USER,
        password=PASSWORD,
        honest=server.port,
        hostile=hostile.port,
    )
    assert lines == ["ok denied denied", "denied", "True"]
