"""Whether a peer gives the same answers as Roundtrip: who is compared must do the same work."""

import hmac
import time
import uuid
from datetime import datetime
from typing import Any

import jwt
import msgspec
from msgspec import Struct

from benchmarks.peers.serving import PATH, Address, Answer, ask

# What differs from one new task to the next; everything else is the same.
NEW = {"id", "created_at", "updated_at", "revision"}
DRAFT = {
    "title": "  Compared with its peers ",
    "description": "Says the same, whoever is asked.",
    "status": "in_progress",
    "priority": 4,
    "due_date": "2030-01-02T03:04:05.678900Z",
}


class Differs(Exception):
    """A peer that does not do the same; the text is a line that says where."""


class Subject(Struct):
    """Whose tasks are asked for: a user with more than a page of them, a few ids, and a task of somebody else."""

    user_id: str
    token: str
    task_ids: list[int]
    foreign_id: int


def token_key(secret: str) -> bytes:
    """The key of access tokens, as service.tokens derives it from SECRET_KEY."""
    return hmac.digest(secret.encode(), b"roundtrip access", "sha256")


def claims(token: str) -> dict[str, Any]:
    """What a token says, taken on trust."""
    return dict(jwt.decode(token, options={"verify_signature": False}))


async def same(peer: Address, ours: Address, subject: Subject, secret: str) -> None:
    """Send both the same requests; raises `Differs` at the first answer that is another."""
    token = subject.token
    for task_id in subject.task_ids:
        await _alike(peer, ours, f"{PATH}/{task_id}", token)
    await _alike(peer, ours, f"{PATH}/{subject.foreign_id}", token, status=404)
    pages = await _alike(peer, ours, f"{PATH}?limit=100", token)
    if pages[0].body["next_cursor"]:  # each has a form of its own
        found, wanted = [
            await ask(to, "GET", f"{PATH}?limit=100&cursor={page.body['next_cursor']}", token)
            for to, page in zip((peer, ours), pages, strict=True)
        ]
        _compare("the second page", wanted, found)
    for what, bad in forged(token, secret).items():
        for to in (peer, ours):
            if (status := (await ask(to, "GET", f"{PATH}/{subject.task_ids[0]}", bad)).status) != 401:  # noqa: PLR2004
                raise Differs(f"GET with {what}: {status} instead of 401")
    await _creates(peer, ours, token)


def forged(token: str, secret: str) -> dict[str, str | None]:
    """Tokens that open nothing, by what is wrong with them."""
    good = claims(token)
    now = int(time.time())

    def signed(key: bytes = token_key(secret), **changes: object) -> str:
        return jwt.encode(good | changes, key, algorithm="HS256")

    return {
        "no token": None,
        "a token of another key": signed(b"a key of somebody else, 32 bytes"),
        "an expired token": signed(iat=now - 7200, exp=now - 3600),
        "a token for somebody else's API": signed(aud="elsewhere"),
        "a token of a session that is not there": signed(sid=str(uuid.uuid4())),
    }


def difference(wanted: object, found: object, at: str = "") -> str | None:
    """Where two answers differ, None where they are the same; of cursors only whether there is one."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        if wanted.keys() != found.keys():
            return f"{at or '/'} has other fields: {', '.join(sorted(wanted.keys() ^ found.keys()))}"
        if "next_cursor" in wanted:
            wanted, found = ({**it, "next_cursor": it["next_cursor"] is None} for it in (wanted, found))
        pairs = [(f"{at}/{name}", value, found[name]) for name, value in wanted.items()]
    elif isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            return f"{at or '/'} has {len(found)} items instead of {len(wanted)}"
        pairs = [(f"{at}/{n}", *both) for n, both in enumerate(zip(wanted, found, strict=True))]
    else:
        equal = type(wanted) is type(found) and wanted == found
        return (
            None
            if equal or _moment(wanted) == _moment(found) is not None
            else f"{at or '/'} is {_brief(found)} instead of {_brief(wanted)}"
        )
    return next((text for place, left, right in pairs if (text := difference(left, right, place))), None)


def _moment(value: object) -> datetime | None:
    """A time of an answer, however many digits its second has."""
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) and value.endswith("Z") else None
    except ValueError:
        return None


async def _alike(
    peer: Address, ours: Address, path: str, token: str, status: int = 200
) -> tuple[Answer, Answer]:
    found, wanted = await ask(peer, "GET", path, token), await ask(ours, "GET", path, token)
    if wanted.status != status:
        raise Differs(f"GET {path}: Roundtrip itself answers {wanted.status} instead of {status}")
    _compare(f"GET {path}", wanted, found)
    return found, wanted


async def _creates(peer: Address, ours: Address, token: str) -> None:
    """A new task says the same as one of ours, is there for everybody, and has the next revision."""
    wanted, found = await ask(ours, "POST", PATH, token, DRAFT), await ask(peer, "POST", PATH, token, DRAFT)
    if (found.status, wanted.status) != (201, 201):
        raise Differs(f"POST {PATH}: {found.status} instead of 201 (Roundtrip: {wanted.status})")
    if text := difference(_settled(wanted.body), _settled(found.body)):
        raise Differs(f"POST {PATH}: {text}")
    if found.body["revision"] != wanted.body["revision"] + 1:
        raise Differs(f"POST {PATH}: /revision does not follow the one before it")
    stored = await ask(ours, "GET", f"{PATH}/{found.body['id']}", token)
    _compare(f"POST {PATH}, as it is stored", stored, Answer(200, found.body))


def _compare(what: str, wanted: Answer, found: Answer) -> None:
    if found.status != wanted.status:
        raise Differs(f"{what}: {found.status} instead of {wanted.status}")
    if wanted.status < 400 and (text := difference(wanted.body, found.body)):  # noqa: PLR2004
        raise Differs(f"{what}: {text}")


def _settled(task: dict[str, Any]) -> dict[str, Any]:
    return {name: name in NEW or value for name, value in task.items()}


def _brief(value: object) -> str:
    return msgspec.json.encode(value).decode()[:60]
