"""Database URLs, read by ourselves: asyncpg takes keys that it does not know for server settings,
which Neon refuses, and its `sslmode=require` verifies no certificate.
"""

from dataclasses import dataclass, field
from ssl import SSLContext, TLSVersion, create_default_context
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
VERIFIED = ("require", "verify-ca", "verify-full")
SSL_MODES = ("disable", "allow", "prefer", *VERIFIED)
ENCODED = "special characters in a name or password are percent-encoded, such as %40 for @ and %2F for /"
# Settings of libpq that mean nothing here. `options` carries Neon's endpoint, which SNI tells already.
IGNORED = ("channel_binding", "options", "application_name", "connect_timeout", "target_session_attrs")


class UrlError(ValueError):
    """A database URL that cannot be used; the text repeats nothing that may be a part of the password."""


@dataclass(frozen=True, slots=True)
class ConnectArgs:
    """What `asyncpg.connect` needs to reach one database."""

    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    database: str
    ssl: SSLContext | str | bool = field(repr=False)
    sslmode: str | None = None  # as the URL has it, for programs of PostgreSQL's own
    sslrootcert: str | None = None

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of `asyncpg.connect` and `asyncpg.create_pool`."""
        return {name: getattr(self, name) for name in ("host", "port", "user", "password", "database", "ssl")}

    @property
    def pooled(self) -> bool:
        """Whether the host is Neon's transaction-mode pooler, by its name."""
        return "-pooler." in self.host

    @property
    def place(self) -> str:
        """Where it is, fit for a log: no user, no password."""
        return f"{self.host}:{self.port}/{self.database}"


def parse(url: str) -> ConnectArgs:
    """Read `postgresql://`, `postgres://` or `postgresql+asyncpg://`.

    `sslmode=require` and stricter verify the server's certificate (`verify-ca` all but its name), against the
    system's authorities or those of `sslrootcert`. Raises `UrlError`, which names the part at fault.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlError(f"its host cannot be read; {ENCODED}") from None
    if parts.scheme not in SCHEMES:
        raise UrlError("it must begin with postgresql://, postgres:// or postgresql+asyncpg://")
    if "@" in parts.path + parts.query or parts.fragment:  # cut off a password that has a / or ? or # in it
        raise UrlError(f"there is an @ or a # after the host; {ENCODED}")
    try:
        port = parts.port or 5432
    except ValueError:
        raise UrlError(f"its port is not a number up to 65535; {ENCODED}") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    mode = query.pop("sslmode", query.pop("ssl", None))
    root = query.pop("sslrootcert", None)
    host = query.pop("host", None) or unquote(parts.hostname or "")
    if unknown := sorted(set(query) - set(IGNORED)):
        raise UrlError(f"unknown parameter {', '.join(unknown)}; known are host, sslmode and sslrootcert")
    if not host or "," in host:
        raise UrlError("it must name one host")
    if not parts.path.strip("/"):
        raise UrlError("it must name a database after the host, as in postgresql://host/name")
    return ConnectArgs(
        host=host,
        port=port,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        database=unquote(parts.path.lstrip("/")),
        ssl=_tls(mode, root),
        sslmode=mode,
        sslrootcert=root,
    )


def _tls(mode: str | None, root: str | None) -> SSLContext | str | bool:
    if mode is not None and mode not in SSL_MODES:
        raise UrlError(f"sslmode is one of {', '.join(SSL_MODES)}")
    if mode in ("disable", "allow"):
        return False
    if mode not in VERIFIED:
        return "prefer"
    try:
        context = create_default_context(cafile=None if root in (None, "system") else root)
    except OSError as error:
        raise UrlError(f"sslrootcert cannot be read: {error.strerror}") from None
    context.check_hostname = mode != "verify-ca"
    context.minimum_version = TLSVersion.TLSv1_2  # whatever the system's defaults are
    return context
