"""Tokens for seeded users, signed as the service signs its own; a test compares the two."""

import base64
import hashlib
import hmac
import secrets
import time
import uuid
from typing import NamedTuple

import jwt

DAY = 86_400


class SignedIn(NamedTuple):
    """A session to be, and what its user presents."""

    sid: str
    access: str
    refresh: str
    refresh_hash: bytes


def sign_in(secret: str, user_id: str) -> SignedIn:
    """Tokens of a new session, the access token for a day."""
    sid = uuid.uuid4()
    now = int(time.time())
    claims = {
        "iss": "roundtrip",
        "aud": "roundtrip-api",
        "sub": user_id,
        "sid": str(sid),
        "iat": now,
        "exp": now + DAY,
    }
    access = jwt.encode(claims, _derived(secret, b"access"), algorithm="HS256")
    opening = sid.bytes + secrets.token_bytes(32)
    mac = hmac.digest(_derived(secret, b"refresh"), opening, "sha256")[:16]
    refresh = base64.urlsafe_b64encode(opening + mac).decode().rstrip("=")
    return SignedIn(str(sid), access, refresh, hashlib.sha256(refresh.encode()).digest())


def _derived(secret: str, purpose: bytes) -> bytes:
    return hmac.digest(secret.encode(), b"roundtrip " + purpose, "sha256")
