"""Every setting of the service, and the one place where the environment is read."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints
from urllib.parse import urlsplit

import msgspec
from dotenv import dotenv_values
from msgspec import Meta

from db.url import UrlError, parse

Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=10_000)]

SECRET_BYTES = 32
LISTS = ("cors_origins", "trusted_proxies")


_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "object": "an object",
    "datetime": "a time such as 2026-01-31T12:00:00Z",
}


class SettingsError(Exception):
    """One or more settings are wrong; the text has a line for each."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings by name, in lower case; the environment has them in upper case."""

    environment: Annotated[
        Literal["development", "production"],
        Meta(description="`production` wants a SECRET_KEY and a DATABASE_URL, and never makes demo users"),
    ] = "development"
    secret_key: Annotated[
        str | None,
        Meta(description="Signs tokens, 32 bytes or more; in development one is made in DATA_DIR"),
    ] = None
    data_dir: Annotated[
        str, Meta(description="Where the embedded PostgreSQL and the development secret live")
    ] = ".roundtrip"

    database_url: Annotated[
        str | None,
        Meta(description="The database, pooled or direct; without it `serve` starts an embedded one"),
    ] = None
    database_url_unpooled: Annotated[
        str | None, Meta(description="The direct endpoint, for migrations; DATABASE_URL where it is not set")
    ] = None
    database_pool_size: Annotated[Count, Meta(description="Connections of one worker")] = 8
    database_max_overflow: Annotated[
        Annotated[int, Meta(ge=0)], Meta(description="Connections on top of DATABASE_POOL_SIZE at most")
    ] = 0
    database_pool_timeout: Annotated[
        Seconds, Meta(description="Seconds to wait for a connection, a new one included; then 503")
    ] = 10.0
    database_statement_timeout: Annotated[
        Seconds, Meta(description="Seconds a statement may take; then it is cancelled, and 503")
    ] = 5.0
    database_idle_timeout: Annotated[
        Seconds, Meta(description="Seconds after which an unused connection is closed")
    ] = 60.0
    database_echo: Annotated[
        bool, Meta(description="Log each statement's name and time, never its values")
    ] = False
    database_instances: Annotated[
        Count, Meta(description="Instances that share the database; each takes its share of max_connections")
    ] = 1

    host: Annotated[str, Meta(description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on")] = 8000
    workers: Annotated[Count, Meta(description="Processes that serve")] = 1
    cache_size: Annotated[
        Annotated[int, Meta(ge=0)],
        Meta(description="Megabytes of lists and statistics that a worker remembers; 0 for none"),
    ] = 64
    keep_alive_timeout: Annotated[
        Seconds,
        Meta(description="Seconds that a connection may be quiet; a load balancer must close it first"),
    ] = 75.0
    shutdown_timeout: Annotated[
        Seconds, Meta(description="Seconds that requests under way have to finish after SIGTERM")
    ] = 20.0
    drain_seconds: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(description="Seconds that /readyz says 503 after SIGTERM while requests are still taken"),
    ] = 0.0
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="Addresses or networks whose X-Forwarded-For is believed, with commas"),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], Meta(description="Origins that browsers may call from, with commas")
    ] = ()
    hsts: Annotated[bool, Meta(description="Send Strict-Transport-Security, where TLS ends here")] = False
    log_format: Annotated[
        Literal["auto", "console", "json"], Meta(description="`auto`: readable on a terminal, JSON elsewhere")
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is logged")
    ] = "info"

    access_token_ttl: Annotated[
        Annotated[int, Meta(ge=1)], Meta(description="Seconds an access token lives")
    ] = 900
    refresh_token_idle: Annotated[
        Annotated[int, Meta(ge=1)], Meta(description="Seconds after which an unused session ends")
    ] = 14 * 86400
    refresh_token_ttl: Annotated[
        Annotated[int, Meta(ge=1)], Meta(description="Seconds after which any session ends")
    ] = 90 * 86400
    refresh_token_grace: Annotated[
        Annotated[int, Meta(ge=0)],
        Meta(description="Seconds a spent refresh token still gives its successor"),
    ] = 10
    identity_issuer: Annotated[
        str | None,
        Meta(
            description="Base URL of an identity provider whose access tokens are taken too, as their `iss`"
        ),
    ] = None
    identity_audience: Annotated[
        str | None, Meta(description="The `aud` of its tokens; IDENTITY_ISSUER where it is not set")
    ] = None
    identity_jwks_url: Annotated[
        str | None,
        Meta(description="Where its keys are; /api/auth/jwks of IDENTITY_ISSUER where it is not set"),
    ] = None
    password_queue: Annotated[
        Count, Meta(description="Passwords that may wait to be hashed; past it 503")
    ] = 64
    rate_limits: Annotated[
        Literal["on", "off"], Meta(description="Throttling of sign-ups and of guessed passwords")
    ] = "on"
    title_max_length: Annotated[
        Annotated[int, Meta(ge=1, le=500)], Meta(description="Characters of a task's title")
    ] = 200
    description_max_length: Annotated[
        Annotated[int, Meta(ge=1, le=20_000)], Meta(description="Characters of a task's description")
    ] = 1000

    def __repr__(self) -> str:
        """Without the secret, and without the passwords of URLs: a repr ends up in logs."""
        return f"Settings(environment={self.environment!r}, ...)"

    @property
    def direct_url(self) -> str | None:
        """Where migrations and whatever needs a session of its own go."""
        return self.database_url_unpooled or self.database_url


def load(environ: Mapping[str, str] | None = None, *, serving: bool = True, **changes: object) -> Settings:
    """Read the environment, and in development what `.env` adds to it.

    `changes` are settings that a command line gave; None stands for not given. What only `serving` needs is not asked of
    commands on the database. Raises `SettingsError` with a line
    for every setting that is wrong.
    """
    given = dict(os.environ if environ is None else environ)
    values: dict[str, Any] = {}
    wrong: list[str] = []
    if given.get("ENVIRONMENT", "development") != "production" and environ is None:
        file = {name: text for name, text in dotenv_values(".env").items() if text is not None}
        if file.get("ENVIRONMENT") == "production":
            wrong.append("ENVIRONMENT: .env is for development; say production in the environment itself")
        given = file | given
    given = {name: text.strip() for name, text in given.items()}
    for name, kind in get_type_hints(Settings, include_extras=True).items():
        if changes.get(name) is not None:
            values[name] = changes[name]
        elif given.get(name.upper(), "") != "":
            try:
                values[name] = _read(name, kind, given[name.upper()])
            except msgspec.ValidationError as error:
                wrong.append(f"{name.upper()}: {plain(error)}")
    settings = Settings(**values)
    wrong += _contradictions(settings, serving=serving)
    if wrong:
        raise SettingsError("\n".join(wrong))
    return settings


def table() -> list[tuple[str, str, str]]:
    """Name, default and meaning of each setting, as the README lists them."""
    rows = []
    for field in msgspec.structs.fields(Settings):
        default = "" if field.default in (None, ()) else str(field.default).removesuffix(".0")
        if isinstance(field.default, bool):
            default = str(field.default).lower()
        rows.append((field.name.upper(), default, _description(field.type)))
    return rows


def _description(kind: Any) -> str:
    return next(str(m.description) for m in kind.__metadata__ if m.description)


def _read(name: str, kind: Any, text: str) -> object:
    if name in LISTS:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if kind is bool or "bool" in str(kind):
        text = {"on": "true", "yes": "true", "off": "false", "no": "false"}.get(text.lower(), text)
    return msgspec.convert(text, kind, strict=False)


def plain(error: msgspec.ValidationError) -> str:
    """What msgspec says of a value, in the words of somebody who wrote JSON or a setting."""
    text = re.sub(r" - at `.*`$", "", str(error)).replace("Expected", "expected", 1)
    for word, plainly in _WORDS.items():
        text = text.replace(f"`{word}`", plainly)
    return text.replace("Invalid enum value", "is not one of the values this takes:").replace("`", "")


def _contradictions(settings: Settings, *, serving: bool) -> list[str]:
    wrong = []
    for name in ("database_url", "database_url_unpooled"):
        try:
            parse(getattr(settings, name) or "postgresql://localhost/name")
        except UrlError as error:
            wrong.append(f"{name.upper()}: {error}")
    for item in settings.trusted_proxies:
        try:
            ipaddress.ip_network(item, strict=False)
        except ValueError:
            wrong.append(f"TRUSTED_PROXIES: {item!r} is neither an address nor a network")
    wrong += [
        f"CORS_ORIGINS: {origin!r} is not an origin such as https://app.example.com"
        for origin in settings.cors_origins
        if not origin.startswith(("https://", "http://")) or origin.count("/") != 2  # noqa: PLR2004
    ]
    wrong += _of_identity(settings)
    secret = settings.secret_key
    if secret is not None and len(secret.encode()) < SECRET_BYTES:
        wrong.append(f"SECRET_KEY: it has {len(secret.encode())} bytes, {SECRET_BYTES} at least are needed")
    elif secret is not None and len(set(secret)) < 8:  # noqa: PLR2004
        wrong.append("SECRET_KEY: it is too simple; make one with: openssl rand -base64 48")
    if settings.environment == "production":
        if serving and secret is None:
            wrong.append("SECRET_KEY: it must be set in production; make one with: openssl rand -base64 48")
        if settings.database_url is None:
            wrong.append("DATABASE_URL: it must be set in production")
    return wrong


def _of_identity(settings: Settings) -> list[str]:
    wrong = []
    for name in ("identity_issuer", "identity_jwks_url"):
        url = getattr(settings, name)
        if url is None:
            continue
        if not _is_url(url):
            wrong.append(f"{name.upper()}: it must be a URL such as https://auth.example.com")
        elif settings.environment == "production" and not _is_private(url):
            wrong.append(f"{name.upper()}: it must begin with https:// in production, but for loopback")
    wrong += [
        f"{name.upper()}: it means nothing without IDENTITY_ISSUER"
        for name in ("identity_audience", "identity_jwks_url")
        if getattr(settings, name) is not None and settings.identity_issuer is None
    ]
    return wrong


def _is_url(text: str) -> bool:
    """Whether it is an address by HTTP without a user or a fragment."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (raises where it is none)
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and not set(" #@") & set(text)
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_private(url: str) -> bool:
    """Whether nobody on the way can read or change what an address answers."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def development_secret(settings: Settings) -> str:
    """The secret that development makes for itself, so that tokens outlive a restart."""
    import secrets

    path = Path(settings.data_dir) / "secret"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"secret.{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(48))
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()
