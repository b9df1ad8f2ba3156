"""Access tokens that are not ours are refused, however they are made; refresh tokens cannot be guessed or forged."""

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.caller import Caller
from service import tokens as module
from service.edge import Edge
from service.settings import Settings
from service.tokens import AUDIENCE, HEADER, ISSUER, LEEWAY, Claims, InvalidToken, Tokens
from tests.conftest import Account

SECRET = "a secret of these tests, 32 bytes at least"
SID = "019a0000-0000-7000-8000-000000000000"
ME = "/api/v1/users/me"
OURS = Tokens(SECRET, ttl=900)


class Forger:
    """Somebody who knows all about our tokens, the key too, and changes one thing."""

    def __init__(self, tokens: Tokens, secret: str, caller: Caller) -> None:
        self.tokens, self.secret, self.caller = tokens, secret, caller

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good token; None leaves one out."""
        now = int(time.time())
        who = {"sub": self.caller.user_id, "sid": self.caller.sid}
        good = {"iss": ISSUER, "aud": AUDIENCE, **who, "iat": now, "exp": now + 900}
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(
        self, key: bytes | None = None, algorithm: str = "HS256", headers: Any = None, **changes: Any
    ) -> str:
        """A token that is good but for what is given."""
        return jwt.encode(
            self.claims(**changes), key or self.tokens._key, algorithm=algorithm, headers=headers
        )

    def unsigned(self, algorithm: str) -> str:
        parts = ({"alg": algorithm, "typ": "JWT"}, self.claims())
        coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        return ".".join(coded) + "."

    def mixed(self) -> str:
        """Another payload under a good signature."""
        header, _, signature = self.token().split(".")
        return f"{header}.{self.token(sub='eve').split('.')[1]}.{signature}"


def without(claim: str) -> Callable[[Forger], str]:
    changes: dict[str, Any] = {claim: None}
    return lambda f: f.token(**changes)


def with_header(name: str, value: object) -> Callable[[Forger], str]:
    return lambda f: f.token(headers={name: value})


FORGERIES: dict[str, Callable[[Forger], str]] = {
    "no algorithm": lambda f: f.unsigned("none"),
    "no algorithm in capitals": lambda f: f.unsigned("NONE"),
    "HS256 without a signature": lambda f: f.unsigned("HS256"),
    "another key": lambda f: f.token(b"another key, 32 bytes at the least"),
    "the secret itself as key": lambda f: f.token(f.secret.encode()),
    "the key of refresh tokens": lambda f: f.token(f.tokens._mac_key),
    "another HMAC": lambda f: f.token(algorithm="HS512", key=f.tokens._key * 2),
    "another issuer": lambda f: f.token(iss="somebody"),
    "another audience": lambda f: f.token(aud="something"),
    "several audiences": lambda f: f.token(aud=[AUDIENCE, "something"]),
    "expired beyond the leeway": lambda f: f.token(exp=int(time.time()) - LEEWAY - 5),
    "from the future beyond the leeway": lambda f: f.token(iat=int(time.time()) + LEEWAY + 60),
    "not yet valid": lambda f: f.token(nbf=int(time.time()) + 600),
    "a claim too many": lambda f: f.token(admin=True),
    "a session that is no UUID": lambda f: f.token(sid="1"),
    "an expiry that is no number": lambda f: f.token(exp="tomorrow"),
    **{f"without {claim}": without(claim) for claim in Claims.__struct_fields__},
    "header kid": with_header("kid", "1"),
    "header jku": with_header("jku", "https://evil.example/keys"),
    "header jwk": with_header("jwk", {"kty": "oct", "k": "AAAA"}),
    "header x5u": with_header("x5u", "https://evil.example/cert"),
    "header x5c": with_header("x5c", ["AAAA"]),
    "header crit": with_header("crit", ["exp"]),
    "header cty": with_header("cty", "JWT"),
    "a letter more": lambda f: f.token() + "A",
    "signs that base64 passes over": lambda f: f.token() + "!!!!",
    "a part too many": lambda f: f.token() + ".AAAA",
    "another payload": Forger.mixed,
    "a refresh token": lambda f: f.tokens.first_refresh().successor,
    "nothing": lambda _: "",
}
FORGER = Forger(OURS, SECRET, Caller("ada", SID))


def test_our_tokens_say_what_is_documented_and_nothing_else() -> None:
    token = OURS.access("ada", SID, now=1_900_000_000.9)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload == {
        "iss": "roundtrip",
        "aud": "roundtrip-api",
        "sub": "ada",
        "sid": SID,
        "iat": 1_900_000_000,
        "exp": 1_900_000_900,
    }
    assert tuple(payload) == Claims.__struct_fields__


def test_what_the_forger_does_not_change_is_taken() -> None:
    assert OURS.verify(FORGER.token()) == Caller("ada", SID)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged(forgery: str) -> None:
    token = FORGERIES[forgery](FORGER)
    for _ in range(2):  # nor is a refused one remembered
        with pytest.raises(InvalidToken):
            OURS.verify(token)


@pytest.mark.parametrize("age", [900 + LEEWAY - 10, -LEEWAY + 10], ids=["just expired", "clock ahead"])
def test_clocks_may_differ_within_the_leeway(age: int) -> None:
    assert OURS.verify(OURS.access("ada", SID, now=time.time() - age)).user_id == "ada"


def test_a_remembered_token_ends_with_its_time() -> None:
    tokens = Tokens(SECRET, ttl=900)
    old = tokens.access("ada", SID, now=time.time() - 3600)
    tokens._verified[old] = (Caller("ada", SID), int(time.time()) - 1)
    with pytest.raises(InvalidToken):
        tokens.verify(old)
    assert old not in tokens._verified


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    tokens = Tokens(SECRET, ttl=900)
    for number in range(10):
        assert tokens.verify(tokens.access(f"user{number}", SID)).user_id == f"user{number}"
    assert [caller.user_id for caller, _ in tokens._verified.values()] == ["user7", "user8", "user9"]


def test_another_secret_reads_nothing() -> None:
    theirs = Tokens("the secret of another service, 32 bytes", ttl=900)
    with pytest.raises(InvalidToken):
        theirs.verify(OURS.access("ada", SID))
    with pytest.raises(InvalidToken):
        theirs.read_refresh(OURS.first_refresh().successor)


@given(st.text())
def test_any_text_is_refused_and_breaks_nothing(text: str) -> None:
    for token in (text, HEADER + text, f"{HEADER}e30.{text}"):
        with pytest.raises(InvalidToken):
            OURS.verify(token)
    with pytest.raises(InvalidToken):
        OURS.read_refresh(text)


def test_a_refresh_token_names_its_session_and_is_known_by_its_hash() -> None:
    first = OURS.first_refresh()
    spent = OURS.read_refresh(first.successor)
    assert (spent.sid, spent.hash) == (first.sid, first.successor_hash)
    assert spent.hash == hashlib.sha256(first.successor.encode()).digest()
    assert uuid.UUID(spent.sid).version == 7


def test_a_successor_is_the_same_for_everybody_who_asks_and_of_the_same_session() -> None:
    first = OURS.first_refresh()
    spent, again = (OURS.read_refresh(first.successor) for _ in range(2))
    assert spent == again
    third = OURS.read_refresh(spent.successor)
    assert third.sid == first.sid
    assert len({first.successor, spent.successor, third.successor}) == 3


def test_refresh_tokens_are_random() -> None:
    secrets = {base64.urlsafe_b64decode(OURS.first_refresh().successor + "==")[16:48] for _ in range(1000)}
    assert len(secrets) == 1000
    bits = [sum(secret[n // 8] >> n % 8 & 1 for secret in secrets) for n in range(256)]
    assert all(350 < ones < 650 for ones in bits)  # each of 256 bits is set about half of the time


def test_no_letter_of_a_refresh_token_can_be_changed() -> None:
    token = OURS.first_refresh().successor
    changed = [token[:n] + ("B" if token[n] == "A" else "A") + token[n + 1 :] for n in range(len(token))]
    lengthened = [token + "=", token + "==", token + "A", token + "\n", f" {token}", token[:-1], token * 2]
    for forged in changed + lengthened:
        with pytest.raises(InvalidToken):
            OURS.read_refresh(forged)


def test_an_access_token_is_no_refresh_token() -> None:
    with pytest.raises(InvalidToken):
        OURS.read_refresh(OURS.access("ada", SID))


@pytest.fixture
def forger(user: Account, app: Edge, settings: Settings) -> Forger:
    """The same against the application, for a session that is alive."""
    caller = app.app.state.tokens.verify(user.tokens["access_token"])
    return Forger(app.app.state.tokens, str(settings.secret_key), caller)


async def test_forged_over_http(inside: httpx.AsyncClient, forger: Forger) -> None:
    good = {"Authorization": f"Bearer {forger.token()}"}
    assert (await inside.get(ME, headers=good)).status_code == 200
    for name, forgery in FORGERIES.items():
        answer = await inside.get(ME, headers={"Authorization": f"Bearer {forgery(forger)}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), name
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_token_for_the_session_of_another(
    client: httpx.AsyncClient, forger: Forger, other: Account
) -> None:
    answer = await client.get(ME, headers={"Authorization": f"Bearer {forger.token(sub=other.id)}"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "scheme", ["Basic ", "Token ", "JWT ", "Bearer", "Bearer: ", "Bearer  ", "", "DPoP "]
)
async def test_only_the_scheme_bearer(client: httpx.AsyncClient, user: Account, scheme: str) -> None:
    token = user.tokens["access_token"]
    answer = await client.get(ME, headers={"Authorization": f"{scheme}{token}"})
    assert answer.status_code == 401
    assert (await client.get(ME, headers={"Authorization": f"bearer {token}"})).status_code == 200
    assert (await client.get(f"{ME}?access_token={token}")).status_code == 401
