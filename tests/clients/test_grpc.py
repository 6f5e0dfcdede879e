"""gRPC under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import pickle
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import netjail
from netjail import Dialer, Rules, use_rules
from tests.servers import grpcserver
from tests.servers.daemon import Daemon, free_port
from tests.servers.names import BAD, GOOD, AsyncNames, Names

grpc: Any = pytest.importorskip("grpc")
from netjail.clients.grpc import (  # noqa: E402
    DeniedError,
    _Bound,
    aio_insecure_channel,
    aio_secure_channel,
    insecure_channel,
    secure_channel,
)

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHERS = Rules(allow=[GOOD, "127.9.0.0/16"])
SECONDS = 20

proves = pytest.mark.proves


@pytest.fixture
def anyio_backend() -> Any:
    return ("asyncio", {"use_uvloop": False})


class Server(NamedTuple):
    port: int
    credentials: Any = None


def started(folder: Path, *files: Path) -> Iterator[int]:
    port = free_port(GOOD)
    command: list[str | Path] = [sys.executable, grpcserver.__file__, f"{GOOD}:{port}", *files]
    with Daemon(command, address=GOOD, port=port, cwd=folder):
        yield port


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    yield from started(tmp_path_factory.mktemp("grpc"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Server]:
    files = pem("good.test", GOOD)
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    for port in started(tmp_path_factory.mktemp("grpc-tls"), files.cert, files.key):
        yield Server(port, credentials)


def call(channel: Any, method: str = "unary_unary:Once", request: Any = b"hello") -> Any:
    kind, _, name = method.partition(":")
    return getattr(channel, kind)(f"/{grpcserver.SERVICE}/{name}")(request, timeout=SECONDS, wait_for_ready=True)


def channel(target: str, rules: Rules | None = RULES, options: Any = None, **more: Any) -> Any:
    return insecure_channel(target, options, rules=rules, resolver=Names(), **more)


@proves("grpcio", "allowed", "denied", "literal")
def test_what_the_rules_accept_is_called_and_nothing_else_is_dialled(plain: int, trap: Make) -> None:
    forbidden = trap(BAD, port=plain)
    targets = (
        "good.test:{}",
        GOOD + ":{}",
        "dns:good.test:{}",
        "dns:///good.test:{}",
        "ipv4:" + GOOD + ":{}",
        "ipv4:///" + GOOD + ":{}",
    )
    for target in targets:
        with channel(target.format(plain)) as made:
            assert call(made).startswith(b"hello from ipv4:127.0.0.1:")
    for target in ("bad.test:{}", BAD + ":{}", "dns:bad.test:{}", f"ipv4:{BAD}:{{}}", f"ipv6:[::ffff:{BAD}]:{{}}"):
        with pytest.raises(DeniedError):
            channel(target.format(plain))
    assert not forbidden.accepted


def test_every_address_of_a_list_is_judged(plain: int, trap: Make) -> None:
    trap(BAD, port=plain)
    with pytest.raises(DeniedError):
        channel(f"ipv4:{GOOD}:{plain},{BAD}:{plain}")


def test_a_name_with_one_denied_address_reaches_the_other_unless_mixed_says_no(plain: int, trap: Make) -> None:
    trap(BAD, port=plain)
    with channel(f"mixed.test:{plain}") as made:
        assert call(made)
    with pytest.raises(DeniedError, match="not every one"):
        channel(f"mixed.test:{plain}", mixed="refuse")


def test_a_name_with_addresses_of_both_families_is_dialled_at_all_of_them(plain: int) -> None:
    for answer, target in (
        ([GOOD, "2001:db8::1"], f"ipv6:[::ffff:{GOOD}]:{plain},[2001:db8::1]:{plain}"),
        (["2001:db8::1", GOOD], f"ipv6:[2001:db8::1]:{plain},[::ffff:{GOOD}]:{plain}"),
        (["2001:db8::1", "2001:db8::2"], f"ipv6:[2001:db8::1]:{plain},[2001:db8::2]:{plain}"),
    ):
        rules, names = Rules(allow=[GOOD, "2001:db8::/32"]), Names({"two.test": answer})
        bound = _Bound(Dialer(rules, resolver=names), f"two.test:{plain}", None)
        bound.look_up(None)
        assert bound.target == target
    names = Names({"two.test": ["::1", GOOD]})
    with insecure_channel(f"two.test:{plain}", rules=Rules(allow=[GOOD, "::1"]), resolver=names) as made:
        assert call(made).startswith(b"hello")


def test_a_denial_is_both_libraries_own_error(trap: Make) -> None:
    forbidden = trap(BAD)
    with pytest.raises(grpc.RpcError) as caught:
        channel(f"bad.test:{forbidden.port}")
    error = caught.value
    assert type(error) is DeniedError
    assert isinstance(error, netjail.DeniedError)
    assert (error.host, error.port) == ("bad.test", forbidden.port)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert BAD not in error.details()
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.trailing_metadata() is None
    assert repr(error) == f"<DeniedError {error}>"
    assert type(pickle.loads(pickle.dumps(error))) is DeniedError


def test_rules_are_needed_and_the_context_narrows(plain: int) -> None:
    with pytest.raises(DeniedError, match="no rules are in force"):
        channel(f"good.test:{plain}", None)
    with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        channel(f"good.test:{plain}")
    with use_rules(RULES), channel(f"good.test:{plain}", None) as made:
        assert call(made)


METHODS = {
    "unary_unary:Once": b"hello",
    "unary_stream:Twice": b"hello",
    "stream_unary:Joined": [b"a", b"b"],
    "stream_stream:Echoed": [b"a", b"b"],
}


@proves("grpcio", "pools")
def test_a_channel_serves_no_call_under_other_rules(plain: int) -> None:
    with use_rules(RULES), channel(f"good.test:{plain}", None) as made:
        for method, request in METHODS.items():
            asked = iter(request) if isinstance(request, list) else request
            answer = call(made, method, asked)
            assert answer if isinstance(answer, bytes) else len(list(answer)) == 2
            with use_rules(OTHERS), pytest.raises(DeniedError, match="other rules"):
                list(call(made, method, request))
        with use_rules(Rules(allow=[f"{GOOD}/32"])):
            assert call(made)


@proves("grpcio", "pools")
def test_two_channels_share_no_connection(plain: int) -> None:
    with use_rules(RULES), channel(f"good.test:{plain}", None) as made:
        first = call(made)
        assert call(made) == first
        with use_rules(OTHERS), channel(f"good.test:{plain}", None) as other:
            assert call(other) != first


@proves("grpcio", "tls", "wrong-name")
def test_tls_checks_the_name(secure: Server) -> None:
    for target in (f"good.test:{secure.port}", f"dns:///good.test:{secure.port}", f"{GOOD}:{secure.port}"):
        with secure_channel(target, secure.credentials, rules=RULES, resolver=Names()) as made:
            assert call(made).startswith(b"hello")
    with secure_channel(f"wrong.test:{secure.port}", secure.credentials, rules=RULES, resolver=Names()) as made:
        once: Any = made.unary_unary(f"/{grpcserver.SERVICE}/Once")
        with pytest.raises(grpc.RpcError) as caught:
            once(b"hello", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not isinstance(caught.value, DeniedError)
    with pytest.raises(DeniedError):
        secure_channel(f"bad.test:{secure.port}", secure.credentials, rules=RULES, resolver=Names())


@proves("grpcio", "refused")
@pytest.mark.parametrize(
    "target",
    [
        "unix:/var/run/docker.sock",
        "unix:///var/run/docker.sock",
        "unix-abstract:docker",
        "vsock:2:1024",
        "xds:///service",
        "google-c2p:///service",
        "dns://127.0.0.3/good.test:1",
        "other:///good.test",
        "https://good.test",
        "",
    ],
)
def test_a_target_that_is_no_name_and_no_address_is_refused(target: str) -> None:
    with pytest.raises(ValueError):
        channel(target)


@proves("grpcio", "refused")
@pytest.mark.parametrize(
    "option",
    [
        ("grpc.http_proxy", f"http://{BAD}:3128"),
        ("grpc.enable_http_proxy", 1),
        ("grpc.service_config_disable_resolution", 0),
        ("grpc.use_local_subchannel_pool", 0),
        ("grpc.service_config", '{"loadBalancingConfig": [{"rls_experimental": {}}]}'),
        ("grpc.service_config", '{"loadBalancingConfig": [{"\\u0072ls_experimental": {}}]}'),
        ("grpc.service_config", b'{"loadBalancingPolicy": "GRPCLB"}'),
        ("grpc.lb_policy_name", "grpclb"),
        ("grpc.lb_policy_name", b"grpclb"),
        ("grpc.address_http_proxy", f"{BAD}:3128"),
        ("grpc.address_http_proxy_enabled_addresses", "127.0.0.0/8"),
        ("grpc.http_connect_server", f"{BAD}:3128"),
        ("grpc.internal.tcp_handshaker_resolved_address", f"ipv4:{BAD}:1"),
        (b"grpc.http_proxy", f"http://{BAD}:3128"),
    ],
)
def test_an_option_that_would_have_the_core_dial_something_else_is_refused(option: Any) -> None:
    for options in ([option], [option, (option[0], "")], [(option[0], ""), option]):
        with pytest.raises(ValueError):
            channel("good.test:1", options=options)


def test_a_service_config_may_name_what_it_likes(plain: int) -> None:
    config = '{"methodConfig": [{"name": [{"service": "urls.xds"}], "timeout": "3s"}]}'
    with channel(f"good.test:{plain}", options=[("grpc.service_config", config)]) as made:
        assert call(made).startswith(b"hello")


def test_options_may_come_once() -> None:
    given: Any = iter([("grpc.max_metadata_size", 9)])
    assert ("grpc.max_metadata_size", 9) in _Bound(Dialer(RULES), "good.test:1", given).options


@proves("grpcio", "refused")
def test_credentials_with_which_the_core_dials_are_refused() -> None:
    token = grpc.access_token_call_credentials("x")
    alts = grpc.alts_channel_credentials()
    for credentials in (
        alts,
        grpc.composite_channel_credentials(alts, token),
        grpc.xds_channel_credentials(),
        grpc.compute_engine_channel_credentials(token),
    ):
        with pytest.raises(ValueError):
            secure_channel("good.test:1", credentials, rules=RULES, resolver=Names())
    tls = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), token)
    secure_channel("good.test:1", tls, rules=RULES, resolver=Names()).close()


@proves("grpcio", "refused")
def test_no_proxy_of_the_environment_is_used(plain: int, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = trap(GOOD)
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{GOOD}:{proxy.port}")
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", f"{GOOD}:{proxy.port}")
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.0/8")
    with channel(f"good.test:{plain}") as made:
        assert call(made)


async def acall(channel: Any, method: str = "unary_unary:Once", request: Any = b"hello") -> Any:
    answer = call(channel, method, request)
    if isinstance(answer, AsyncIterator) or hasattr(answer, "__aiter__"):
        return [each async for each in answer]
    return await answer


@pytest.mark.anyio
@proves("grpcio, aio", "allowed", "denied", "literal")
async def test_aio_calls_what_the_rules_accept_and_dials_nothing_else(plain: int, trap: Make) -> None:
    trap(BAD, port=plain)
    for host in ("good.test", GOOD, "mixed.test"):
        async with await aio_insecure_channel(f"{host}:{plain}", rules=RULES, resolver=AsyncNames()) as made:
            assert (await acall(made)).startswith(b"hello")
    for host in ("bad.test", BAD):
        with pytest.raises(DeniedError):
            await aio_insecure_channel(f"{host}:{plain}", rules=RULES, resolver=AsyncNames())
    with pytest.raises(ValueError):
        await aio_insecure_channel("unix:/socket", rules=RULES)


@pytest.mark.anyio
@proves("grpcio, aio", "pools")
async def test_an_aio_channel_serves_no_call_under_other_rules(plain: int) -> None:
    with use_rules(RULES):
        async with await aio_insecure_channel(f"good.test:{plain}", resolver=AsyncNames()) as made:
            for method, request in METHODS.items():
                assert await acall(made, method, request)
                with use_rules(OTHERS), pytest.raises(DeniedError, match="other rules"):
                    await acall(made, method, request)
            first = await acall(made)
            with use_rules(OTHERS):
                async with await aio_insecure_channel(f"good.test:{plain}", resolver=AsyncNames()) as other:
                    assert await acall(other) != first


@pytest.mark.anyio
@proves("grpcio, aio", "tls", "wrong-name", "refused")
async def test_aio_tls_checks_the_name(secure: Server) -> None:
    target = f"good.test:{secure.port}"
    async with await aio_secure_channel(target, secure.credentials, rules=RULES, resolver=AsyncNames()) as made:
        assert (await acall(made)).startswith(b"hello")
    target = f"wrong.test:{secure.port}"
    async with await aio_secure_channel(target, secure.credentials, rules=RULES, resolver=AsyncNames()) as made:
        with pytest.raises(grpc.RpcError) as caught:
            once: Any = made.unary_unary(f"/{grpcserver.SERVICE}/Once")
            await once(b"hello", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(DeniedError):
        await aio_secure_channel(f"bad.test:{secure.port}", secure.credentials, rules=RULES, resolver=AsyncNames())
    with pytest.raises(ValueError):
        await aio_secure_channel(target, grpc.alts_channel_credentials(), rules=RULES, resolver=AsyncNames())
