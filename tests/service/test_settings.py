"""Settings: every mistake named at once, nothing believed silently, no secret told."""

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from service.settings import Settings, SettingsError, development_secret, load, table

SECRET = "kJ3v/9xQ2m8Zt5Wc7Rb1Nf4Lg6Hd0Ys+"
URL = "postgresql://u:p@h/d"
PRODUCTION = {"ENVIRONMENT": "production", "SECRET_KEY": SECRET, "DATABASE_URL": URL}
DEFAULTS = Settings()
NAMES = [name.upper() for name in Settings.__struct_fields__]


def changed(environ: Mapping[str, str]) -> dict[str, object]:
    """What an environment makes different from the defaults."""
    found = msgspec.structs.asdict(load(environ))
    return {name: value for name, value in found.items() if value != getattr(DEFAULTS, name)}


def wrong(environ: Mapping[str, str]) -> list[str]:
    """The lines of the error that an environment gives."""
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return str(caught.value).split("\n")


# One setting


def test_nothing_set() -> None:
    assert load({}) == DEFAULTS
    assert load({"PATH": "/bin", "Port": "1", "ROUNDTRIP_PORT": "2"}) == DEFAULTS


@pytest.mark.parametrize("name", NAMES)
def test_empty_is_not_set(name: str) -> None:
    assert load({name: ""}) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ENVIRONMENT", "development", "development"),
        ("SECRET_KEY", SECRET, SECRET),
        ("SECRET_KEY", SECRET[:32], SECRET[:32]),
        ("DATA_DIR", "/srv/data", "/srv/data"),
        ("DATABASE_URL", URL, URL),
        ("DATABASE_URL_UNPOOLED", URL, URL),
        ("DATABASE_POOL_SIZE", "16", 16),
        ("DATABASE_MAX_OVERFLOW", "4", 4),
        ("DATABASE_MAX_OVERFLOW", "0", 0),
        ("DATABASE_POOL_TIMEOUT", "2.5", 2.5),
        ("DATABASE_STATEMENT_TIMEOUT", "3", 3.0),
        ("DATABASE_IDLE_TIMEOUT", "0.5", 0.5),
        ("HOST", "::", "::"),
        ("PORT", " 8080 ", 8080),
        ("PORT", "0", 0),
        ("WORKERS", "2", 2),
        ("DRAIN_SECONDS", "0", 0.0),
        ("LOG_FORMAT", "json", "json"),
        ("LOG_LEVEL", "error", "error"),
        ("IDENTITY_ISSUER", "https://auth.example.com/", "https://auth.example.com/"),
        ("IDENTITY_ISSUER", "http://auth:3000/base", "http://auth:3000/base"),
        ("RATE_LIMITS", "off", "off"),
        ("TITLE_MAX_LENGTH", "500", 500),
        ("DESCRIPTION_MAX_LENGTH", "20000", 20_000),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    found = getattr(load({name: text}), name.lower())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["DATABASE_ECHO", "HSTS"])
@pytest.mark.parametrize(
    ("text", "value"),
    [(text, True) for text in ("true", "on", "yes", "1", "True", "ON", "Yes")]
    + [(text, False) for text in ("false", "off", "no", "0", "False", "OFF", "No")],
)
def test_booleans(name: str, text: str, value: bool) -> None:
    assert getattr(load({name: text}), name.lower()) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("https://a.example", ("https://a.example",)),
        (" https://a.example ,http://b.example:3000,", ("https://a.example", "http://b.example:3000")),
        (" , ", ()),
    ],
)
def test_origins(text: str, value: tuple[str, ...]) -> None:
    assert load({"CORS_ORIGINS": text}).cors_origins == value


def test_proxies() -> None:
    found = load({"TRUSTED_PROXIES": "10.0.0.1, 10.1.0.0/16,::1,fd00::/8"}).trusted_proxies
    assert found == ("10.0.0.1", "10.1.0.0/16", "::1", "fd00::/8")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("ENVIRONMENT", "prod", "prod"),
        ("ENVIRONMENT", "Production", "Production"),
        ("SECRET_KEY", SECRET[:31], "31 bytes, 32 at least"),
        ("SECRET_KEY", "short", "5 bytes, 32 at least"),
        ("SECRET_KEY", "x" * 64, "too simple"),
        ("SECRET_KEY", "changeme" * 4 + "aaaa", "too simple"),
        ("DATABASE_URL", "mysql://u:p@h/d", "begin with postgresql://"),
        ("DATABASE_URL_UNPOOLED", "postgresql://u:p@h", "database"),
        ("DATABASE_POOL_SIZE", "0", ">= 1"),
        ("DATABASE_POOL_SIZE", "eight", "an integer"),
        ("DATABASE_POOL_SIZE", "8.5", "an integer"),
        ("DATABASE_MAX_OVERFLOW", "-1", ">= 0"),
        ("DATABASE_POOL_TIMEOUT", "0", "> 0"),
        ("DATABASE_POOL_TIMEOUT", "nan", "> 0"),
        ("DATABASE_STATEMENT_TIMEOUT", "-1", "> 0"),
        ("DATABASE_STATEMENT_TIMEOUT", "5s", "a number"),
        ("DATABASE_ECHO", "maybe", "true or false"),
        ("DATABASE_ECHO", "2", "true or false"),
        ("PORT", "65536", "<= 65535"),
        ("PORT", "-1", ">= 0"),
        ("PORT", "http", "an integer"),
        ("WORKERS", "0", ">= 1"),
        ("CORS_ORIGINS", "*", "'*' is not an origin"),
        ("CORS_ORIGINS", "https://a.example/", "'https://a.example/' is not an origin"),
        ("CORS_ORIGINS", "https://a.example,b.example", "'b.example' is not an origin"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,proxy", "'proxy' is neither"),
        ("LOG_FORMAT", "xml", "xml"),
        ("LOG_LEVEL", "INFO", "INFO"),
        ("RATE_LIMITS", "no", "no"),
        ("IDENTITY_ISSUER", "auth.example.com", "a URL such as"),
        ("IDENTITY_ISSUER", "ftp://auth.example.com", "a URL such as"),
        ("IDENTITY_ISSUER", "https://", "a URL such as"),
        ("IDENTITY_ISSUER", "https://h:port", "a URL such as"),
        ("IDENTITY_ISSUER", "https://[::1", "a URL such as"),
        ("IDENTITY_ISSUER", "https://u:p@auth.example.com", "a URL such as"),
        ("IDENTITY_ISSUER", "https://auth.example.com#x", "a URL such as"),
        ("IDENTITY_ISSUER", "https://auth.example .com", "a URL such as"),
        ("IDENTITY_AUDIENCE", "ours", "without IDENTITY_ISSUER"),
        ("IDENTITY_JWKS_URL", "https://auth.example.com/keys", "without IDENTITY_ISSUER"),
        ("TITLE_MAX_LENGTH", "501", "<= 500"),
        ("DESCRIPTION_MAX_LENGTH", "20001", "<= 20000"),
        ("ACCESS_TOKEN_TTL", "0", ">= 1"),
        ("REFRESH_TOKEN_GRACE", "-1", ">= 0"),
    ],
)
def test_wrong_values(name: str, text: str, complaint: str) -> None:
    [line] = wrong({name: text})
    assert line.startswith(f"{name}: ")
    assert complaint in line
    assert "`" not in line


# Several


def test_every_wrong_setting_is_named_at_once() -> None:
    environ = {
        "SECRET_KEY": "canary",
        "DATABASE_URL": "postgresql://u:canary@h:port/d",
        "DATABASE_URL_UNPOOLED": "postgresql://u:1/canary@h/d",
        "DATABASE_POOL_SIZE": "many",
        "DATABASE_ECHO": "maybe",
        "PORT": "70000",
        "CORS_ORIGINS": "one,two",
        "TRUSTED_PROXIES": "three",
        "LOG_LEVEL": "loud",
    }
    lines = wrong(environ)
    assert {line.split(":")[0] for line in lines} == set(environ)
    assert len(lines) == len(environ) + 1
    assert "canary" not in "\n".join(lines)


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        DEFAULTS.port = 1  # type: ignore[misc]


def test_the_direct_endpoint() -> None:
    direct = "postgresql://u:p@direct/d"
    assert load({}).direct_url is None
    assert load({"DATABASE_URL": URL}).direct_url == URL
    assert load({"DATABASE_URL": URL, "DATABASE_URL_UNPOOLED": direct}).direct_url == direct


def test_a_command_line_comes_first() -> None:
    settings = load({"HOST": "10.0.0.1", "PORT": "1", "WORKERS": "2"}, host="::1", port=0, workers=None)
    assert (settings.host, settings.port, settings.workers) == ("::1", 0, 2)


def test_what_a_command_line_gives_is_not_read_from_the_environment() -> None:
    assert load({"PORT": "not a port"}, port=80).port == 80


# Production


def test_production() -> None:
    assert changed(PRODUCTION) == {name.lower(): value for name, value in PRODUCTION.items()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY: it must be set in production"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY: it has 5 bytes"),
        ({"SECRET_KEY": "ab" * 32}, "SECRET_KEY: it is too simple"),
        ({"DATABASE_URL": ""}, "DATABASE_URL: it must be set in production"),
        ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL: it must begin with"),
    ],
)
def test_production_refuses(change: dict[str, str], complaint: str) -> None:
    [line] = wrong(PRODUCTION | change)
    assert line.startswith(complaint)


@pytest.mark.parametrize("name", ["IDENTITY_ISSUER", "IDENTITY_JWKS_URL"])
def test_an_identity_provider_is_asked_by_tls_in_production(name: str) -> None:
    issuer = {"IDENTITY_ISSUER": "https://auth.example.com"}
    for url in ("http://auth.example.com", "http://10.0.0.1:3000", "http://localhost.example.com"):
        [line] = wrong(PRODUCTION | issuer | {name: url})
        assert line == f"{name}: it must begin with https:// in production, but for loopback"
        assert load(issuer | {name: url})
    for url in ("https://10.0.0.1/x?y=z", "http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]/x"):
        assert load(PRODUCTION | issuer | {name: url})
    [line] = wrong(issuer | {"IDENTITY_JWKS_URL": "keys"})
    assert line.startswith("IDENTITY_JWKS_URL: it must be a URL")


def test_production_names_all_that_is_missing() -> None:
    lines = wrong({"ENVIRONMENT": "production", "DATABASE_URL_UNPOOLED": URL, "PORT": "x"})
    assert [line.split(":")[0] for line in lines] == ["PORT", "SECRET_KEY", "DATABASE_URL"]


def test_a_secret_is_measured_in_bytes() -> None:
    assert load({"SECRET_KEY": "äöüßéèàç" * 2}).secret_key == "äöüßéèàç" * 2
    assert wrong({"SECRET_KEY": "abcdefgh" * 3 + "äöü"}) == [
        "SECRET_KEY: it has 30 bytes, 32 at least are needed"
    ]


# .env


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without a setting."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_dotenv_adds_to_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    assert load().port == 1
    (folder / ".env").write_text(
        "# mine\nPORT=2\nWORKERS=3\nDATA_DIR='a b'\nexport HSTS=yes\nHOST\nLOG_LEVEL=\n"
    )
    settings = load()
    assert (settings.port, settings.workers, settings.data_dir, settings.hsts) == (1, 3, "a b", True)
    assert (settings.host, settings.log_level) == (DEFAULTS.host, DEFAULTS.log_level)
    assert "WORKERS" not in os.environ
    assert load(port=4).port == 4


def test_mistakes_in_dotenv_are_named(folder: Path) -> None:
    (folder / ".env").write_text("PORT=x\n")
    with pytest.raises(SettingsError, match=r"^PORT: expected an integer"):
        load()


def test_production_reads_no_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text(f"SECRET_KEY={SECRET}\nDATABASE_URL={URL}\nPORT=2\n")
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SettingsError) as caught:
        load()
    assert [line.split(":")[0] for line in str(caught.value).split("\n")] == ["SECRET_KEY", "DATABASE_URL"]
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("DATABASE_URL", URL)
    assert load().port == DEFAULTS.port


def test_an_environment_of_ones_own_reads_no_dotenv(folder: Path) -> None:
    (folder / ".env").write_text("PORT=2\n")
    assert load({}) == DEFAULTS


# The table of the README


def test_the_table_has_every_setting_and_its_default() -> None:
    rows = table()
    assert [name for name, _, _ in rows] == NAMES
    assert all(meaning for _, _, meaning in rows)
    given = {name: default for name, default, _ in rows if default}
    assert load(given) == DEFAULTS


# The secret that development makes


def test_the_development_secret_is_made_once(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path / "deep" / "data"))
    before = os.umask(0)
    try:
        secret = development_secret(settings)
    finally:
        os.umask(before)
    assert len(secret) >= 64
    assert development_secret(settings) == secret
    assert load({"SECRET_KEY": secret}).secret_key == secret
    [file] = (tmp_path / "deep" / "data").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert development_secret(Settings(data_dir=str(tmp_path / "other"))) != secret


def test_the_development_secret_of_who_was_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def too_late(source: Path, target: Path) -> None:
        other = tmp_path / "theirs"
        other.write_text("theirs")
        link(other, target)
        other.unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", too_late)
    assert development_secret(Settings(data_dir=str(tmp_path))) == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from service.settings import Settings, development_secret;"
        f"print('ready', flush=True); sys.stdin.read(1);"
        f"print(development_secret(Settings(data_dir={str(tmp_path / 'data')!r})))"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(4)
    ]
    for start in starts:
        assert start.stdout is not None
        assert start.stdout.readline() == "ready\n"
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("x")
        start.stdin.flush()
    secrets = {start.communicate()[0] for start in starts}
    assert len(secrets) == 1
    assert len(secrets.pop().strip()) >= 64
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret"]


def test_blanks_are_not_set() -> None:
    assert load({"DATABASE_URL": " ", "SECRET_KEY": "\t"}) == DEFAULTS
    assert load({"DATABASE_ECHO": " on "}).database_echo is True
    assert wrong(PRODUCTION | {"DATABASE_URL": " "}) == ["DATABASE_URL: it must be set in production"]


@pytest.mark.parametrize("name", ["DATABASE_POOL_TIMEOUT", "DATABASE_STATEMENT_TIMEOUT", "SHUTDOWN_TIMEOUT"])
def test_no_wait_is_endless(name: str) -> None:
    assert wrong({name: "inf"})[0].startswith(f"{name}: expected a number <= 86400")
    assert wrong({"DATABASE_POOL_SIZE": "1" + "0" * 22})


def test_a_dotenv_cannot_make_it_production(folder: Path) -> None:
    (folder / ".env").write_text("ENVIRONMENT=production\n")
    with pytest.raises(SettingsError, match=r"ENVIRONMENT: \.env is for development"):
        load()


def test_a_repr_tells_no_secret() -> None:
    shown = repr(load(PRODUCTION))
    assert SECRET not in shown
    assert URL not in shown
