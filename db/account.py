"""A user as the API shows them: what signing in and the account itself both answer with."""

import msgspec

from db.types import Instant


class User(msgspec.Struct, gc=False):
    """An account without its secrets; times in UTC."""

    id: str
    email: str
    name: str | None
    is_active: bool
    is_admin: bool
    created_at: Instant
    updated_at: Instant
    last_login_at: Instant | None
