"""OpenLDAP's slapd as a server of a test's own, with and without TLS, on 127.0.0.2."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .daemon import Daemon, binary, free_port
from .names import GOOD

BASE = "dc=test"
ADMIN, PASSWORD = "cn=admin,dc=test", "secret"
_PACKAGE = "slapd"
_SCHEMAS = ("/etc/ldap/schema", "/etc/openldap/schema")
_MODULES = ("/usr/lib/ldap", "/usr/lib64/openldap")


class Ldap(NamedTuple):
    """Where a server listens: ``port`` takes StartTLS, ``tls_port`` is TLS from the start."""

    port: int
    tls_port: int
    daemon: Daemon


@contextmanager
def ldap_server(folder: Path, pem: Any, referrals: Mapping[str, str]) -> Iterator[Ldap]:
    """A running server with the entry ``cn=alice,dc=test``, and for each name of ``referrals`` ``ou=name,dc=test``.

    Whoever asks for one of these is referred to its URL, in which PORT stands for the server's own port.
    """
    slapd = binary("slapd", _PACKAGE)
    slapadd = binary("slapadd", _PACKAGE)
    port, tls_port = free_port(), free_port()
    data = folder / "data"
    data.mkdir()
    config = folder / "slapd.conf"
    config.write_text("\n".join([*_schema(), *_database(data, pem), ""]))
    entries = folder / "entries.ldif"
    entries.write_text(_entries({name: url.replace("PORT", str(port)) for name, url in referrals.items()}))
    subprocess.run([slapadd, "-f", config, "-l", entries], check=True, capture_output=True)
    urls = f"ldap://{GOOD}:{port}/ ldaps://{GOOD}:{tls_port}/"
    with Daemon([slapd, "-f", config, "-h", urls, "-d", "0"], port=port, cwd=folder) as daemon:
        yield Ldap(port, tls_port, daemon)


def _schema() -> list[str]:
    schemas = [Path(folder, "core.schema") for folder in _SCHEMAS]
    modules = [folder for folder in _MODULES if list(Path(folder).glob("back_mdb*"))]
    return [
        *(f"modulepath {folder}\nmoduleload back_mdb" for folder in modules[:1]),
        *(f"include {path}" for path in schemas if path.exists()),
    ]


def _database(data: Path, pem: Any) -> list[str]:
    return [
        f"TLSCertificateFile {pem.cert}",
        f"TLSCertificateKeyFile {pem.key}",
        f"TLSCACertificateFile {pem.ca}",
        f"pidfile {data}/slapd.pid",
        "database mdb",
        "maxsize 10485760",
        f"suffix {BASE}",
        f"rootdn {ADMIN}",
        f"rootpw {PASSWORD}",
        f"directory {data}",
    ]


def _entries(referrals: Mapping[str, str]) -> str:
    entries = [
        f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: test\ndc: test\n",
        f"dn: cn=alice,{BASE}\nobjectClass: person\ncn: alice\nsn: Liddell\n",
    ]
    for name, url in referrals.items():
        entries.append(f"dn: ou={name},{BASE}\nobjectClass: referral\nobjectClass: extensibleObject\nref: {url}\n")
    return "\n".join(entries)
