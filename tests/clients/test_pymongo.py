"""pymongo under rules, sync and asyncio, against a stand-in for MongoDB: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import dns.asyncresolver
import dns.resolver
import pymongo
import pytest
from pymongo import common, pool_shared
from pymongo.encryption_options import AutoEncryptionOpts
from pymongo.errors import ConnectionFailure, PyMongoError, ServerSelectionTimeoutError

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients import pymongo as jailed
from netjail.clients.pymongo import DeniedError
from tests.servers.mongodb import MongoDB
from tests.servers.names import BAD, GOOD, TABLE, AsyncNames, Names

Make = Callable[..., Any]
ALLOWED = Rules(allow=[GOOD])
OTHER = Rules(allow=[GOOD, "192.0.2.1"])
NOT_HERE = Rules(allow=[BAD])
AZURE = "authMechanismProperties=ENVIRONMENT:azure,TOKEN_RESOURCE:x"

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitors look whether they should end, and whether to check again, more often than twice a second."""
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)
    monkeypatch.setattr(common, "MIN_SRV_RESCAN_INTERVAL", 0.02)


@dataclass(frozen=True)
class Kind:
    """One of pymongo's two halves, and what netjail gives for it."""

    name: str
    MongoClient: Any
    Names: Any
    plain: Any

    @asynccontextmanager
    async def client(self, *args: Any, names: Any = None, **options: Any) -> AsyncIterator[Any]:
        client = self.MongoClient(*args, resolver=self.Names() if names is None else names, **options)
        try:
            yield client
        finally:
            await done(client.close())


SYNC = Kind("sync", jailed.MongoClient, Names, pymongo.MongoClient)
ASYNC = Kind("async", jailed.AsyncMongoClient, AsyncNames, pymongo.AsyncMongoClient)


async def done(result: Any) -> Any:
    """What a call gives, whether the client is the sync one or not."""
    return await result if inspect.isawaitable(result) else result


async def ping(client: Any) -> Any:
    return await done(client.admin.command("ping"))


def halves(*proofs: str) -> Any:
    """Runs a test with both halves, which proves ``proofs`` in the row of each."""
    cases = []
    for each in (SYNC, ASYNC):
        marks = [pytest.mark.proves(f"pymongo, {each.name}", *proofs)] if proofs else []
        cases.append(pytest.param(each, id=each.name, marks=marks))
    return pytest.mark.parametrize("kind", cases)


both = halves()


@pytest.fixture
def server() -> Iterator[MongoDB]:
    with MongoDB(GOOD) as made:
        yield made


@halves("allowed", "tls")
async def test_documents_go_to_an_allowed_name_over_tls_that_checks_it(kind: Kind, server_tls: Make, pem: Make) -> None:
    with MongoDB(GOOD, tls=server_tls("good.test")) as server:
        uri = f"mongodb://good.test:{server.port}/?tls=true&tlsCAFile={pem('x.test').ca}"
        async with kind.client(ALLOWED, uri) as client:
            things = client.db.things
            await done(things.insert_one({"name": "a"}))
            assert (await done(things.find_one({"name": "a"})))["name"] == "a"
            assert len(await done(things.find({}).to_list())) == 1


@halves("denied")
async def test_a_denied_name_opens_nothing_and_is_an_error_at_once(kind: Kind, trap: Make) -> None:
    port = trap(BAD).port
    async with kind.client(ALLOWED, "bad.test", port, serverSelectionTimeoutMS=8_000) as client:
        for _ in range(2):
            with pytest.raises(DeniedError, match=r"'bad\.test' port \d+: none of its addresses") as caught:
                await ping(client)
        with pytest.raises(DeniedError):
            await done(client.db.things.insert_one({}))
    assert [str(each.address) for each in caught.value.decisions] == [BAD]


@halves("literal")
@pytest.mark.parametrize("literal", [BAD, f"[::ffff:{BAD}]", "[::1]"])
async def test_a_literal_is_judged(kind: Kind, trap: Make, literal: str) -> None:
    port = trap(BAD).port
    async with kind.client(ALLOWED, f"mongodb://{literal}:{port}") as client:
        with pytest.raises(DeniedError, match="the address is not accepted"):
            await ping(client)


# pymongo 4.13 leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@halves("wrong-name")
async def test_a_certificate_for_another_name_fails(kind: Kind, server_tls: Make, pem: Make) -> None:
    with MongoDB(GOOD, tls=server_tls("good.test")) as server:
        options = {"tls": True, "tlsCAFile": str(pem("x.test").ca), "serverSelectionTimeoutMS": 50}
        async with kind.client(ALLOWED, "wrong.test", server.port, **options) as client:
            with pytest.raises(ServerSelectionTimeoutError, match=r"(?i)certificate|hostname") as caught:
                await ping(client)
    assert find_denied(caught.value) is None
    assert not server.commands


@both
async def test_without_rules_everything_is_denied_and_no_name_is_looked_up(kind: Kind, server: MongoDB) -> None:
    names = kind.Names()
    async with kind.client(None, "good.test", server.port, names=names) as client:
        with pytest.raises(DeniedError, match="no rules are in force"):
            await ping(client)
    assert not names.asked
    assert not server.accepted


@both
async def test_an_accepted_address_of_a_name_is_dialled_and_mixed_refuse_denies_it(
    kind: Kind, server: MongoDB, trap: Make
) -> None:
    trap(BAD, port=server.port)
    async with kind.client(ALLOWED, "mixed.test", server.port) as client:
        assert await ping(client)
    async with kind.client(ALLOWED, "mixed.test", server.port, mixed="refuse") as client:
        with pytest.raises(DeniedError, match="not every one of its addresses"):
            await ping(client)


# A client belongs to the rules that it was made under.


@halves("pools")
async def test_an_operation_under_rules_that_the_client_was_not_made_under_is_denied(
    kind: Kind, server: MongoDB
) -> None:
    async with AsyncExitStack() as stack:
        with use_rules(ALLOWED):
            client = await stack.enter_async_context(kind.client(None, "good.test", server.port))
        with use_rules(ALLOWED):
            assert await ping(client)
        for rules in (OTHER, NOT_HERE, Rules()):
            with use_rules(rules), pytest.raises(DeniedError, match="made under other rules"):
                await ping(client)
        assert len(server.connections_of("ping")) == 1


@halves("pools")
async def test_rules_of_the_context_and_rules_given_are_both_the_clients(kind: Kind, server: MongoDB) -> None:
    with use_rules(OTHER):
        async with kind.client(ALLOWED, "good.test", server.port) as client:
            assert await ping(client)
            with use_rules(ALLOWED):
                assert await ping(client)
    async with kind.client(ALLOWED, "good.test", server.port) as client:
        with use_rules(OTHER), pytest.raises(DeniedError, match="made under other rules"):
            await ping(client)
        assert await ping(client)
    with use_rules(NOT_HERE):
        async with kind.client(ALLOWED, "good.test", server.port) as client:
            with pytest.raises(DeniedError, match="none of its addresses"):
                await ping(client)


async def test_a_client_goes_by_its_own_rules_in_a_thread_without_any(server: MongoDB) -> None:
    with use_rules(ALLOWED):
        client = jailed.MongoClient(None, "good.test", server.port, resolver=Names())
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.admin.command("ping")))
    thread.start()
    thread.join()
    client.close()
    assert answers == [{"ok": 1.0}]


@both
async def test_pymongo_itself_stays_as_it_is(kind: Kind, server: MongoDB) -> None:
    assert pool_shared._create_connection.__module__ == "pymongo.pool_shared"
    plain = kind.plain(GOOD, server.port)
    assert await ping(plain)
    await done(plain.close())


# What a server announces.


@halves("announced")
async def test_a_member_that_a_replica_set_announces_is_judged(kind: Kind, trap: Make) -> None:
    denied = trap(BAD)
    with MongoDB(GOOD) as server:
        server.me = f"good.test:{server.port}"
        server.members = [server.me, f"bad.test:{denied.port}"]
        uri = f"mongodb://{server.me}/?replicaSet=rs&serverSelectionTimeoutMS=500"
        names = kind.Names()
        async with kind.client(ALLOWED, uri, names=names) as client:
            await done(client.db.things.insert_one({"name": "a"}))
            reader = client.db.things.with_options(read_preference=pymongo.ReadPreference.SECONDARY)
            with pytest.raises(ServerSelectionTimeoutError) as caught:
                await done(reader.find_one({}))
            found = find_denied(caught.value)
            assert found is not None
            assert (found.host, found.port) == ("bad.test", denied.port)
    assert "bad.test" in {host for host, _ in names.asked}


@halves("announced")
async def test_a_replica_set_that_announces_nothing_but_denied_members_is_denied_at_once(
    kind: Kind, trap: Make
) -> None:
    if kind is ASYNC and pymongo.version_tuple < (4, 20):
        pytest.skip("this pymongo leaves the connection to a member that was removed open")
    denied = trap(BAD)
    with MongoDB(GOOD, members=[f"{BAD}:{denied.port}"], me=f"{BAD}:{denied.port}") as server:
        async with kind.client(ALLOWED, "good.test", server.port, replicaSet="rs") as client:
            with pytest.raises(DeniedError, match=f"{BAD!r} port {denied.port}: the address is not accepted"):
                await ping(client)


@halves("announced")
async def test_a_member_that_is_announced_later_is_judged(kind: Kind, trap: Make) -> None:
    denied = trap(BAD)
    looked_up: Any = threading.Event() if kind is SYNC else asyncio.Event()

    class Asked(list[Any]):
        def append(self, question: Any) -> None:
            super().append(question)
            if question[0] == "bad.test":
                looked_up.set()

    names = kind.Names()
    names.asked = Asked()
    with MongoDB(GOOD) as server:
        server.me = f"good.test:{server.port}"
        server.members = [server.me]
        uri = f"mongodb://{server.me}/?replicaSet=rs&heartbeatFrequencyMS=500"
        async with kind.client(ALLOWED, uri, names=names) as client:
            assert await ping(client)
            server.members.append(f"bad.test:{denied.port}")
            await done(looked_up.wait())
            assert await ping(client)


@both
async def test_a_direct_connection_asks_nobody_else(kind: Kind, trap: Make) -> None:
    denied = trap(BAD)
    with MongoDB(GOOD) as server:
        server.me = f"good.test:{server.port}"
        server.members = [server.me, f"bad.test:{denied.port}"]
        names = kind.Names()
        async with kind.client(ALLOWED, "good.test", server.port, directConnection=True, names=names) as client:
            assert await ping(client)
    assert {host for host, _ in names.asked} == {"good.test"}


@halves("announced")
async def test_a_host_of_an_srv_record_is_judged(kind: Kind, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is a fake; pymongo asks for the real ones with dnspython."""
    denied = trap(BAD)

    class Answer(list[Any]):
        rrset = SimpleNamespace(ttl=60)

    def resolve(name: Any, kind: str, **_: Any) -> Any:
        if kind != "SRV":
            raise dns.resolver.NoAnswer
        target = SimpleNamespace(to_text=lambda **_: "one.db.test")
        return Answer([SimpleNamespace(target=target, port=denied.port)])

    async def aresolve(*args: Any, **options: Any) -> Any:
        return resolve(*args, **options)

    monkeypatch.setattr(dns.resolver, "resolve", resolve)
    monkeypatch.setattr(dns.asyncresolver, "resolve", aresolve)
    names = kind.Names({"one.db.test": [BAD]})
    async with kind.client(
        ALLOWED, "mongodb+srv://cluster.db.test/?tls=false&heartbeatFrequencyMS=500", names=names
    ) as client:
        with pytest.raises(DeniedError, match=r"'one\.db\.test' port"):
            await ping(client)


@both
@pytest.mark.parametrize("rules", [None, Rules()])
async def test_where_nothing_could_be_accepted_no_srv_record_is_asked_for(
    kind: Kind, rules: Rules | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        pytest.fail("DNS was asked")

    monkeypatch.setattr(dns.resolver, "resolve", resolve)
    monkeypatch.setattr(dns.asyncresolver, "resolve", resolve)
    with pytest.raises(DeniedError, match=r"'cluster\.db\.test'"):
        async with kind.client(rules, "mongodb+srv://cluster.db.test/") as client:
            await ping(client)


@both
async def test_arguments_go_by_their_place_as_in_pymongo(kind: Kind, server: MongoDB) -> None:
    async with kind.client(ALLOWED, "good.test", server.port, dict, True) as client:
        assert client.codec_options.tz_aware
        assert await ping(client)


@both
async def test_a_name_that_turns_to_a_denied_address_after_the_first_check_opens_nothing(
    kind: Kind, server: MongoDB, trap: Make
) -> None:
    trap(BAD, port=server.port)
    names = kind.Names({"good.test": chain([[GOOD]], repeat([BAD]))})
    async with kind.client(ALLOWED, "good.test", server.port, names=names) as client:
        with pytest.raises(DeniedError, match=r"'good\.test' port"):
            await ping(client)
    assert not server.connections_of("ping")


# What would dial in other ways.


@halves("refused")
@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("mongodb.sock",), {}, "a unix socket"),
        (("mongodb://%2Frun%2Fmongodb.sock/db",), {}, "a unix socket"),
        ((["good.test", "mongodb.sock"],), {}, "a unix socket"),
        (("mongodb://good.test/?authMechanism=MONGODB-AWS",), {}, "MONGODB-AWS"),
        ((f"mongodb://good.test/?authMechanism=MONGODB-OIDC&{AZURE}",), {}, "MONGODB-OIDC"),
        ((), {"_pool_class": object}, "_pool_class"),
    ],
)
async def test_what_leads_outside_the_rules_is_refused(
    kind: Kind, arguments: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        kind.MongoClient(ALLOWED, *arguments, **options)


@halves("refused")
async def test_automatic_encryption_is_refused_as_it_dials_key_services(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = object.__new__(AutoEncryptionOpts)  # its constructor wants a library in C
    with pytest.raises(ValueError, match="auto_encryption_opts"):
        kind.MongoClient(ALLOWED, auto_encryption_opts=options)


async def test_no_ocsp_responder_is_asked(pem: Make) -> None:
    """pymongo asks the one that a certificate names, where PyOpenSSL is installed."""
    with jailed.MongoClient(ALLOWED, "good.test", tls=True, tlsCAFile=str(pem("x.test").ca), connect=False) as client:
        context = client.options.pool_options._ssl_context
        assert getattr(context, "check_ocsp_endpoint", False) is False


@both
async def test_the_denial_is_pymongos_own_error_and_pickles(kind: Kind) -> None:
    async with kind.client(ALLOWED, BAD, 27017) as client:
        with pytest.raises(PyMongoError) as caught:
            await ping(client)
    error: Any = caught.value
    assert issubclass(type(error), netjail.DeniedError)
    assert not issubclass(type(error), ConnectionFailure)
    assert not error.has_error_label("RetryableError")
    assert not error.timeout
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DeniedError
    assert (copy.host, copy.port, str(copy)) == (BAD, 27017, str(error))


@both
async def test_the_connect_timeout_covers_the_lookup(kind: Kind, server: MongoDB) -> None:
    over = threading.Event()

    class Slow:
        def lookup(self, host: str, family: int) -> Any:
            over.wait(30)
            raise socket.gaierror(socket.EAI_NONAME, "too late")

    class AsyncSlow:
        async def lookup(self, host: str, family: int) -> Any:
            await asyncio.sleep(30)

    options = {"connectTimeoutMS": 50, "serverSelectionTimeoutMS": 200}
    names = Slow() if kind is SYNC else AsyncSlow()
    async with kind.client(ALLOWED, "good.test", server.port, names=names, **options) as client:
        with pytest.raises(ServerSelectionTimeoutError, match="timed out") as caught:
            await ping(client)
    over.set()
    assert find_denied(caught.value) is None
    assert not server.accepted


@both
async def test_other_failures_are_pymongos_own(kind: Kind) -> None:
    for host, port in (("nowhere.test", 27017), ("good.test", 1)):
        async with kind.client(ALLOWED, host, port, serverSelectionTimeoutMS=50) as client:
            with pytest.raises(ServerSelectionTimeoutError) as caught:
                await ping(client)
            assert find_denied(caught.value) is None


async def test_a_cancelled_operation_leaves_nothing_behind(server: MongoDB) -> None:
    asked = asyncio.Event()

    class Slow:
        async def lookup(self, host: str, family: int) -> Any:
            asked.set()
            await asyncio.sleep(30)

    async with ASYNC.client(ALLOWED, "good.test", server.port, names=Slow()) as client:
        task = asyncio.ensure_future(ping(client))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_unknown_pymongo_is_refused_rather_than_left_to_dial() -> None:
    with pytest.raises(ImportError, match="does not know this version of pymongo"):
        jailed._rebound(pool_shared._create_connection, "no_such_name", lambda value: value)


@both
async def test_threads_and_tasks_share_a_client(kind: Kind, server: MongoDB) -> None:
    names = kind.Names(TABLE)
    async with kind.client(ALLOWED, "good.test", server.port, names=names) as client:
        if kind is ASYNC:
            assert await asyncio.gather(*(ping(client) for _ in range(8))) == [{"ok": 1.0}] * 8
        else:
            threads = [threading.Thread(target=client.admin.command, args=("ping",)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(server.connections_of("ping")) == 8
