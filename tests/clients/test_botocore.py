"""botocore and boto3 under rules, against a stand-in on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import io
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, EndpointConnectionError, SSLError

import netjail
from netjail import Rules, use_rules
from netjail.clients.botocore import DeniedError, Session, jailed
from tests.guard.harness import run_guarded
from tests.servers.aws import Aws
from tests.servers.daemon import free_port
from tests.servers.names import Names

Make = Callable[..., Any]
GOOD = Rules(allow=["127.0.0.2"])
OTHER = Rules(allow=["127.0.0.3"])
LOOPBACK = Rules(allow=["127.0.0.0/8"])
KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}

pytestmark = [pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(autouse=True)
def nobodys_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with Aws() as server:
        yield server


@pytest.fixture(scope="module")
def secure(server_tls: Make) -> Iterator[Aws]:
    with Aws(tls=server_tls("good.test")) as server:
        yield server


def quick(**options: Any) -> Config:
    return Config(**{"retries": {"max_attempts": 0}, "s3": {"addressing_style": "path"}, **options})


def by_client(url: str, rules: Rules | None = GOOD, *, verify: Any = None, config: Any = None, **options: Any) -> Any:
    """An S3 client of boto3's that is put under rules."""
    client = boto3.client("s3", endpoint_url=url, verify=verify, config=config or quick(), **KEYS)
    return jailed(client, rules, **{"resolver": Names(), **options})


def by_session(url: str, rules: Rules | None = GOOD, *, verify: Any = None, config: Any = None, **options: Any) -> Any:
    """The same from a session that is."""
    made = boto3.Session(botocore_session=Session(rules, **{"resolver": Names(), **options}))
    return made.client("s3", endpoint_url=url, verify=verify, config=config or quick(), **KEYS)


def buckets(client: Any) -> list[str]:
    try:
        return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    finally:
        client.close()


def ways(*what: str) -> Any:
    proves = pytest.mark.proves("botocore", *what)
    return pytest.mark.parametrize(
        "way",
        [pytest.param(by_client, id="jailed", marks=proves), pytest.param(by_session, id="Session", marks=proves)],
    )


@ways("allowed", "literal", "denied")
def test_an_allowed_name_answers_and_a_denied_one_opens_nothing(aws: Aws, trap: Make, way: Make) -> None:
    trap("127.0.0.3", port=aws.port)
    for host in ("good.test", "127.0.0.2", "mixed.test"):
        assert buckets(way(aws.url(host))) == ["one"]
        assert aws.seen[-1] == ("GET", f"{host}:{aws.port}", "/")
    for host in ("bad.test", "127.0.0.3"):
        with pytest.raises(DeniedError) as caught:
            buckets(way(aws.url(host)))
        assert isinstance(caught.value, netjail.DeniedError)
        assert isinstance(caught.value, BotoCoreError)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), again.host, again.port) == (DeniedError, host, aws.port)


@ways("tls", "wrong-name")
def test_tls_checks_the_name_that_was_asked_for(secure: Aws, pem: Make, way: Make) -> None:
    verify = str(pem("unused.test").ca)
    assert buckets(way(secure.url("good.test"), verify=verify)) == ["one"]
    with pytest.raises(SSLError, match=r"wrong\.test"):
        buckets(way(secure.url("wrong.test"), verify=verify))
    with pytest.raises(SSLError):
        buckets(way(secure.url("good.test")))


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
@ways("denied")
def test_a_denial_is_not_retried(trap: Make, way: Make, mode: str) -> None:
    listener, names = trap("127.0.0.3"), Names()
    config = quick(retries={"mode": mode, "max_attempts": 5})
    with pytest.raises(DeniedError):
        buckets(way(f"http://bad.test:{listener.port}", config=config, resolver=names))
    assert len(names.asked) == 1


@ways("pools")
def test_other_rules_never_ride_on_a_kept_connection(way: Make) -> None:
    with Aws() as server:
        client = way(server.url("good.test"), None)
        for rules in (GOOD, LOOPBACK, GOOD, Rules(allow=["127.0.0.2/32"]), LOOPBACK):
            with use_rules(rules):
                client.list_buckets()
        assert server.connections == 2
        with use_rules(OTHER), pytest.raises(DeniedError):
            client.list_buckets()
        with pytest.raises(DeniedError, match="no rules are in force"):
            client.list_buckets()
        assert server.connections == 2
        client.close()


@ways()
def test_the_context_only_narrows(aws: Aws, way: Make) -> None:
    with use_rules(OTHER), pytest.raises(DeniedError):
        buckets(way(aws.url("good.test"), LOOPBACK))


@ways()
def test_objects_go_up_and_down(aws: Aws, way: Make) -> None:
    client, up = way(aws.url("good.test")), os.urandom(100_000)
    client.put_object(Bucket="one", Key="small", Body=b"small", ContentType="text/plain")
    assert client.get_object(Bucket="one", Key="small")["Body"].read() == b"small"
    client.upload_fileobj(io.BytesIO(up), "one", "large", Config=TransferConfig(use_threads=False))
    down = io.BytesIO()
    client.download_fileobj("one", "large", down, Config=TransferConfig(use_threads=False))
    assert down.getvalue().find(up) >= 0  # between what frames a chunk where botocore signs chunks
    client.close()


def test_the_threads_of_a_transfer_have_the_rules_that_were_given_and_no_context(aws: Aws) -> None:
    given, none = by_client(aws.url("good.test")), by_client(aws.url("good.test"), None)
    given.upload_fileobj(io.BytesIO(b"x"), "one", "threads")
    with use_rules(GOOD):
        none.upload_fileobj(io.BytesIO(b"x"), "one", "none", Config=TransferConfig(use_threads=False))
        with pytest.raises(DeniedError, match="no rules are in force"):
            none.upload_fileobj(io.BytesIO(b"x"), "one", "none")
    given.close()
    none.close()


def led_to(server: Aws) -> tuple[list[str], Any]:
    """What a ``connect=`` is called with, and that one: it leads to the port of ``server`` whatever was asked for."""
    dialled: list[str] = []

    def connect(address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        dialled.append(address[0])
        return socket.create_connection((address[0], server.port), timeout)

    return dialled, connect


@pytest.mark.proves("botocore", "announced")
@pytest.mark.parametrize("region", ["127.0.0.2", "127.0.0.3"])
def test_the_region_that_a_bucket_has_moved_to_is_judged(aws: Aws, trap: Make, region: str) -> None:
    trap("127.0.0.3", port=aws.port)
    hosts = {"s3.amazonaws.com": ["127.0.0.2"], "s3.us-east-1.amazonaws.com": ["127.0.0.2"]}
    names = Names({**hosts, "s3.eu-west-1.amazonaws.com": [region]})
    dialled, connect = led_to(aws)
    client = boto3.client("s3", use_ssl=False, config=quick(retries={"max_attempts": 2}), **KEYS)
    jailed(client, GOOD, resolver=names, connect=connect)
    if region == "127.0.0.2":
        assert client.get_object(Bucket="moved", Key="a")["Body"].read() == b"hello"
        assert aws.seen[-1] == ("GET", "s3.eu-west-1.amazonaws.com", "/moved/a")
    else:
        with pytest.raises(DeniedError) as caught:
            client.get_object(Bucket="moved", Key="a")
        assert caught.value.host == "s3.eu-west-1.amazonaws.com"
    assert set(dialled) == {"127.0.0.2"}
    client.close()


@ways("refused")
def test_a_proxy_of_the_config_is_refused(trap: Make, way: Make) -> None:
    proxy = trap("127.0.0.2")
    with pytest.raises(ValueError, match="proxies="):
        way("http://good.test", config=quick(proxies={"http": proxy.url()}))


@ways()
def test_the_proxies_of_the_environment_are_not_used(
    aws: Aws, trap: Make, monkeypatch: pytest.MonkeyPatch, way: Make
) -> None:
    proxy = trap("127.0.0.2")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url())
    monkeypatch.delenv("no_proxy", raising=False)
    assert buckets(way(aws.url("good.test"), LOOPBACK)) == ["one"]


@pytest.mark.proves("botocore", "refused")
def test_a_client_has_one_set_of_rules(aws: Aws) -> None:
    client = by_session(aws.url("good.test"))
    with pytest.raises(ValueError, match="not botocore's own"):
        jailed(client, LOOPBACK)
    client.close()


@ways()
def test_other_errors_are_botocores_own(way: Make) -> None:
    with pytest.raises(EndpointConnectionError):
        buckets(way(f"http://good.test:{free_port()}"))
    with pytest.raises(EndpointConnectionError):
        buckets(way("http://unknown.test"))


def test_a_mixed_answer_can_be_refused(aws: Aws, trap: Make) -> None:
    trap("127.0.0.3", port=aws.port)
    with pytest.raises(DeniedError):
        buckets(by_client(aws.url("mixed.test"), mixed="refuse"))


def test_a_session_needs_nothing_of_boto3(aws: Aws) -> None:
    client = Session(GOOD, resolver=Names()).create_client("s3", endpoint_url=aws.url("good.test"), **KEYS)
    assert buckets(client) == ["one"]
    assert Session(GOOD, None, None, True, "one").profile == "one"  # in the plain one's order


def test_a_resource_and_the_default_session_are_judged_too(
    aws: Aws, trap: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap("127.0.0.3", port=aws.port)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    boto3.setup_default_session(botocore_session=Session(GOOD, resolver=Names()))
    resource = boto3.resource("s3", endpoint_url=aws.url("good.test"), **KEYS)
    assert [bucket.name for bucket in resource.buckets.all()] == ["one"]
    resource.meta.client.close()
    with pytest.raises(DeniedError):
        buckets(boto3.client("s3", endpoint_url=aws.url("bad.test"), **KEYS))


HOSTS = {"good.test": True, "bad.test": False}


def outcome(make: Callable[[], Any]) -> str:
    """The access key that ``make`` has found credentials for, or that it was denied."""
    try:
        return str(make().access_key)
    except DeniedError:
        return "denied"


@pytest.mark.proves("botocore, credentials", "allowed", "denied")
@pytest.mark.parametrize("host", HOSTS)
def test_the_instance_metadata_service_is_judged(
    aws: Aws, trap: Make, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    trap("127.0.0.3", port=aws.port)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.url(host))
    session = Session(GOOD, resolver=Names())
    assert outcome(session.get_credentials) == ("AKIAEXAMPLE" if HOSTS[host] else "denied")


@pytest.mark.proves("botocore, credentials", "literal")
def test_the_address_of_the_metadata_service_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with pytest.raises(DeniedError) as caught:
        Session(netjail.PUBLIC).get_credentials()
    assert caught.value.host == "169.254.169.254"


@pytest.mark.proves("botocore, credentials", "allowed", "denied")
@pytest.mark.parametrize("allowed", [True, False])
def test_the_container_service_is_judged(aws: Aws, trap: Make, monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    trap("127.0.0.3", port=aws.port)
    host = "127.0.0.2" if allowed else "127.0.0.3"
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url(host)}/container")
    assert outcome(Session(GOOD).get_credentials) == ("AKIAEXAMPLE" if allowed else "denied")


@pytest.mark.proves("botocore, credentials", "allowed", "denied")
@pytest.mark.parametrize("host", HOSTS)
def test_the_client_that_assumes_a_role_is_judged(
    aws: Aws, trap: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    trap("127.0.0.3", port=aws.port)
    monkeypatch.setenv("AWS_PROFILE", "role")
    profiles = "[profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\nregion = us-east-1\n"
    profiles += f"services = here\n[profile base]\n[services here]\nsts =\n  endpoint_url = {aws.url(host)}\n"
    (tmp_path / "config").write_text(profiles)
    (tmp_path / "credentials").write_text("[base]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    session = Session(GOOD, resolver=Names())
    found: Any = session.get_credentials()
    assert outcome(found.get_frozen_credentials) == ("AKIAEXAMPLE" if HOSTS[host] else "denied")


@pytest.mark.proves("botocore, credentials", "denied")
@pytest.mark.parametrize("host", HOSTS)
def test_the_region_that_defaults_mode_auto_asks_for_is_judged(
    aws: Aws, trap: Make, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    trap("127.0.0.3", port=aws.port)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.url(host))
    before = len(aws.seen)
    mode: dict[str, Any] = {"defaults_mode": "auto", "signature_version": UNSIGNED}
    config = Config(**mode)
    session = Session(GOOD, resolver=Names())
    session.create_client("s3", "eu-west-1", endpoint_url=aws.url("good.test"), config=config).close()
    assert any("placement" in path for _, _, path in aws.seen[before:]) is HOSTS[host]


def test_client_side_monitoring_is_off(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would send datagrams to wherever the environment says."""
    sent: list[str] = []
    sys.addaudithook(lambda event, args: sent.append(event) if event == "socket.sendto" and watching else None)
    watching = [True]
    monkeypatch.setenv("AWS_CSM_ENABLED", "true")
    assert buckets(by_session(aws.url("good.test"))) == ["one"]
    assert sent == []
    plain: Any = botocore.session.Session()
    assert buckets(plain.create_client("s3", endpoint_url=aws.url(), config=quick(), **KEYS)) == ["one"]
    plain._get_internal_component("monitor")._publisher._socket.close()
    assert sent  # so it is this that was looked for
    watching.clear()


@pytest.mark.proves("botocore, guard", "allowed", "denied", "literal")
def test_the_plain_client_under_a_guard(aws: Aws, trap: Make) -> None:
    trap("127.0.0.3", port=aws.port)
    lines = run_guarded(
        """
        import boto3
        from botocore.config import Config

        def ask(host):
            config = Config(retries={"max_attempts": 0})
            client = boto3.client(
                "s3", "us-east-1", endpoint_url=f"http://{host}:{PORT}", config=config,
                aws_access_key_id="key", aws_secret_access_key="secret",
            )
            assert client.list_buckets()["Buckets"]

        for host in ("good.test", "bad.test", BAD):
            print(outcome(ask, host))
        """,
        PORT=aws.port,
    )
    assert lines == ["ok", "denied", "denied"]
