"""A stand-in for the AWS services that tests of botocore talk to, on loopback: S3, STS and instance metadata.

It keeps objects in memory and believes every signature. It knows no more of each protocol than botocore asks of it.
"""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from .site import on_a_port

_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_KEYS = {"AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "secret", "Expiration": "2040-01-01T00:00:00Z"}
_BUCKETS = (
    f"{_XML}<ListAllMyBucketsResult><Buckets><Bucket><Name>one</Name></Bucket></Buckets></ListAllMyBucketsResult>"
)
_MOVED = f"{_XML}<Error><Code>PermanentRedirect</Code><Endpoint>elsewhere</Endpoint></Error>"
_ASSUMED = (
    f"{_XML}<AssumeRoleResponse><AssumeRoleResult><Credentials>"
    + "".join(f"<{name}>{value}</{name}>" for name, value in {**_KEYS, "SessionToken": "token"}.items())
    + "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
)
_METADATA = {  # of an instance and of a container, which have a role
    "/latest/api/token": b"token",
    "/latest/meta-data/iam/security-credentials/": b"role",
    "/latest/meta-data/iam/security-credentials/role": json.dumps({**_KEYS, "Code": "Success", "Token": "t"}).encode(),
    "/latest/meta-data/placement/availability-zone/": b"eu-west-1a",
    "/container": json.dumps({**_KEYS, "Token": "t"}).encode(),
}


class Aws:
    """A server on ``address`` and a free (or given) port, in threads.

    ``seen`` holds the method, the Host header and the path of each request. A bucket ``moved`` answers
    with a 301 to the region eu-west-1 unless the host names that region.
    """

    def __init__(self, address: str = "127.0.0.2", *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.seen: list[tuple[str, str, str]] = []
        self.connections = 0
        self.objects: dict[str, bytes] = {}
        self._scheme = "https" if tls else "http"
        self._server = on_a_port(address, port, lambda target: _Server(target, self, tls))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def url(self, host: str | None = None) -> str:
        return f"{self._scheme}://{host or self.address}:{self.port}"

    def answer(self, method: str, host: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.seen.append((method, host, path))
        if path in _METADATA or path.startswith("/latest/"):
            return (200, {}, _METADATA[path]) if path in _METADATA else (404, {}, b"")
        if b"Action=AssumeRole" in body:
            return 200, {}, _ASSUMED.encode()
        if path == "/":
            return 200, {}, _BUCKETS.encode()
        if path.startswith("/moved") and "eu-west-1" not in host:
            return 301, {"x-amz-bucket-region": "eu-west-1"}, _MOVED.encode()
        if method == "PUT":
            self.objects[path] = body
        if method in ("GET", "HEAD"):
            return 200, {}, self.objects.get(path, b"hello")
        return 200, {}, b""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Aws:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], aws: Aws, tls: ssl.SSLContext | None) -> None:
        self.aws = aws
        self.tls = tls
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.aws.connections += 1
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        try:
            super().finish_request(request, client_address)
        finally:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not like our certificate is what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        status, headers, content = self.server.aws.answer(self.command, self.headers["Host"], self.path, body)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any
