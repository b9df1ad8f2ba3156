"""Database URLs: what is accepted, what TLS they ask for, and errors that never tell a password."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from db.url import ConnectArgs, UrlError, parse

SECRET = "s3cr3t"
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
CERTIFICATE = Path(__file__).parent / "localhost.pem"
NEON = (
    "postgresql://owner:npg_abc@ep-cool-rain-123456-pooler.eu-central-1.aws.neon.tech/neondb"
    "?sslmode=require&channel_binding=require&options=endpoint%3Dep-cool-rain-123456"
)


def plain(url: str) -> tuple[str, int, str | None, str | None, str]:
    args = parse(url)
    return args.host, args.port, args.user, args.password, args.database


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "POSTGRESQL"])
def test_schemes(scheme: str) -> None:
    assert plain(f"{scheme}://u:p@h:1/d") == ("h", 1, "u", "p", "d")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("postgresql://h/d", ("h", 5432, None, None, "d")),
        ("postgresql://u@h/d", ("h", 5432, "u", None, "d")),
        ("postgresql://u:@h/d", ("h", 5432, "u", None, "d")),
        ("postgresql://a%40b:p%2F%3F%23%3A%25@h/d", ("h", 5432, "a@b", "p/?#:%", "d")),
        ("postgresql://u:p@ss:w@h/d", ("h", 5432, "u", "p@ss:w", "d")),
        ("postgresql://u:p%C3%A9@h/d%20e%40f", ("h", 5432, "u", "pé", "d e@f")),
        ("postgresql://u:p+q@h/d", ("h", 5432, "u", "p+q", "d")),
        ("postgresql://u:p@[::1]:6543/d", ("::1", 6543, "u", "p", "d")),
        ("postgresql:///d?host=/run/postgresql", ("/run/postgresql", 5432, None, None, "d")),
        ("postgresql://u:p@/d?host=%2Frun%2Fpostgresql", ("/run/postgresql", 5432, "u", "p", "d")),
        ("postgresql://u:p@:6543/d?host=/run/postgresql", ("/run/postgresql", 6543, "u", "p", "d")),
        ("postgresql://u:p@%2Frun%2Fpostgresql/d", ("/run/postgresql", 5432, "u", "p", "d")),
        ("postgresql://u:p@h/d\n", ("h", 5432, "u", "p", "d")),
    ],
)
def test_parts(url: str, parts: tuple[object, ...]) -> None:
    assert plain(url) == parts


def test_neon() -> None:
    args = parse(NEON)
    assert plain(NEON)[1:] == (5432, "owner", "npg_abc", "neondb")
    assert args.pooled
    assert not parse(NEON.replace("-pooler", "")).pooled
    assert set(args.kwargs()) == {"host", "port", "user", "password", "database", "ssl"}
    assert isinstance(args.ssl, ssl.SSLContext)


async def test_a_unix_socket() -> None:
    told = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.set_result(await reader.read(1000))
        writer.close()

    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        async with await asyncio.start_unix_server(serve, f"{folder}/.s.PGSQL.6543"):
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await asyncpg.connect(**parse(f"postgresql://someone@:6543/d?host={folder}").kwargs())
    assert b"someone" in await told


# TLS


@pytest.mark.parametrize("query", ["", "?sslmode=prefer", "?ssl=prefer"])
def test_tls_is_preferred(query: str) -> None:
    assert parse(f"postgresql://h/d{query}").ssl == "prefer"


@pytest.mark.parametrize("query", ["?sslmode=disable", "?sslmode=allow", "?ssl=disable"])
def test_no_tls(query: str) -> None:
    assert parse(f"postgresql://h/d{query}").ssl is False


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("root", ["", "&sslrootcert=system", "&sslrootcert=CERTIFICATE"])
def test_tls_verifies(mode: str, root: str) -> None:
    context = parse(f"postgresql://h/d?sslmode={mode}{root}".replace("CERTIFICATE", str(CERTIFICATE))).ssl
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is (mode != "verify-ca")
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    if "CERTIFICATE" in root:
        assert len(context.get_ca_certs()) == 1


@asynccontextmanager
async def impostor() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server for localhost whose certificate nobody signed; what it was told after the handshake."""
    told: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.readexactly(8) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                told.append(await reader.read(1000))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], told


BELIEVED = (asyncpg.PostgresError, ConnectionError)
REFUSED = (ssl.SSLCertVerificationError,)


@pytest.mark.parametrize(
    ("host", "query", "outcome"),
    [
        ("localhost", "sslmode=require", REFUSED),
        ("localhost", "sslmode=verify-ca", REFUSED),
        ("localhost", "sslmode=verify-full", REFUSED),
        ("localhost", "sslmode=require&sslrootcert=system", REFUSED),
        ("localhost", "sslmode=require&sslrootcert=CERTIFICATE", BELIEVED),
        ("localhost", "sslmode=verify-full&sslrootcert=CERTIFICATE", BELIEVED),
        ("127.0.0.1", "sslmode=require&sslrootcert=CERTIFICATE", REFUSED),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=CERTIFICATE", REFUSED),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert=CERTIFICATE", BELIEVED),
        ("127.0.0.1", "sslmode=prefer", BELIEVED),
    ],
)
async def test_an_impostor_is_told_nothing(
    host: str, query: str, outcome: tuple[type[Exception], ...]
) -> None:
    async with impostor() as (port, told):
        url = f"postgresql://someone:{SECRET}@{host}:{port}/d?{query}".replace(
            "CERTIFICATE", str(CERTIFICATE)
        )
        with pytest.raises(outcome):
            await asyncpg.connect(**parse(url).kwargs(), timeout=5)
    assert [b"someone" in words for words in told if words] == ([True] if outcome is BELIEVED else [])


# Errors


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "begin with postgresql://"),
        ("h/d", "begin with postgresql://"),
        ("mysql://u:s3cr3t@h/d", "begin with postgresql://"),
        ("postgresql+psycopg://u:s3cr3t@h/d", "begin with postgresql://"),
        ("postgresql:/d", "one host"),
        ("postgresql://u:s3cr3t@/d", "one host"),
        ("postgresql://u:s3cr3t@a,b/d", "one host"),
        ("postgresql:///d?host=a,b", "one host"),
        ("postgresql://u:s3cr3t@h", "database"),
        ("postgresql://u:s3cr3t@h/", "database"),
        ("postgresql://u:s3cr3t@h:port/d", "port"),
        ("postgresql://u:s3cr3t@h:65536/d", "port"),
        ("postgresql://u:s3cr3t@[h/d", "host"),
        ("postgresql://u:s3cr3t@h/d?sslmode=yes", "sslmode"),
        ("postgresql://u:s3cr3t@h/d?sslmode=", "sslmode"),
        ("postgresql://u:s3cr3t@h/d?sslmode=require&sslrootcert=/none", "sslrootcert"),
        (f"postgresql://u:s3cr3t@h/d?sslmode=require&sslrootcert={__file__}", "sslrootcert"),
        ("postgresql://u:s3cr3t@h/d?pool_size=5&search_path=x", "pool_size, search_path"),
        ("postgresql://u:s3cr3t@h/d#x", "percent-encoded"),
        # Passwords with characters that should have been encoded.
        ("postgresql://u:a#s3cr3t@h/d", "percent-encoded"),
        ("postgresql://u:1#s3cr3t@h/d", "percent-encoded"),
        ("postgresql://u:s3cr3t#1@h/d", "percent-encoded"),
        ("postgresql://u:1/s3cr3t@h/d", "percent-encoded"),
        ("postgresql://u:s3cr3t/1@h/d", "percent-encoded"),
        ("postgresql://u:1?s3cr3t@h/d", "percent-encoded"),
        ("postgresql://u:1?s3cr3t=1@h/d", "percent-encoded"),
        ("postgresql://u:s3cr3t?1@h/d", "percent-encoded"),
        ("postgresql://u:s3cr3t[1@h/d", "percent-encoded"),
        ("postgresql://u:s3cr3t\u2100@h/d", "percent-encoded"),
    ],
)
def test_errors_name_the_part_and_never_the_password(url: str, part: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse(url)
    assert part in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_nothing_shows_the_password() -> None:
    args = parse(f"postgresql://u:{SECRET}@h:1/d")
    assert args == ConnectArgs("h", 1, "u", SECRET, "d", "prefer")
    assert SECRET not in repr(args)
    assert SECRET not in f"{args} {[args]}"
    assert args.place == "h:1/d"
