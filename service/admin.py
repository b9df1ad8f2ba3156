"""Users as admins see and change them."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import Response
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from db import admin
from db.admin import CountedUser
from service import cursors
from service.calls import Call, answer, signed_in
from service.errors import Problem
from service.validation import UNFIT

PATH = "/api/v1/admin/users"
ONESELF = "Nobody deactivates themselves; another admin can."
LAST = "You are the last active admin; make somebody else one first."


class UserPage(cursors.Page):
    """Which page of the users."""

    email: (
        Annotated[str, Meta(max_length=255, description="Only who has this address, in any case")] | UnsetType
    ) = UNSET
    count: Annotated[bool, Meta(description="Give the total, over all pages")] = False

    def walk(self) -> str:
        """What a cursor belongs to."""
        return repr((PATH, self.email))

    def shape(self) -> admin.Shape:
        """The member of the family of lists that answers it."""
        return admin.Shape("everyone" if self.email is UNSET else "addressed")

    def window(self) -> admin.Window:
        """Which rows; one more than the page has, to see whether there is a next."""
        beyond = "" if self.cursor is UNSET else cursors.read(self.cursor, self.walk())[0]
        return admin.Window(self.offset or 0, self.limit + 1, beyond)


class UserRights(msgspec.Struct, forbid_unknown_fields=True):
    """What a user may do: what is absent stays."""

    is_active: bool | UnsetType = UNSET
    is_admin: bool | UnsetType = UNSET


class UserList(msgspec.Struct):
    """A page of users by id, in the order of bytes; `total` is there where `count` asked for it."""

    items: Sequence[CountedUser]
    next_cursor: str | None
    total: int | UnsetType = UNSET


async def list_users(request: Call) -> Response[UserList]:
    """List all users, by id; for admins.

    There is neither a `revision` nor an `ETag`: no number moves with everything that is shown here.
    """
    page: UserPage = request.params
    found = signed_in(
        await admin.list(
            request.db, page.shape(), request.caller, page.window(), page.count, page.email or ""
        )
    )
    if found.users is None:
        raise Problem(403)
    items = found.users[: page.limit]
    cursor = None
    headers = {}
    if len(found.users) > page.limit:
        cursor = cursors.write(page.walk(), items[-1].id, 0)
        headers["Link"] = cursors.link(request, cursor)
    total = UNSET if found.total is None else found.total
    return answer(UserList(items, cursor, total), headers=headers)


async def update_rights(
    request: Call, id: FromPath[str], data: JSONBody[UserRights]
) -> Response[CountedUser]:
    """Change what a user may do; for admins.

    It acts from the user's next request on. When `is_active` changes, either way, all sessions of the user end. Nobody
    deactivates themselves, and the last active admin remains one: 409.
    """
    rights = admin.Rights(data.is_active, data.is_admin)
    if UNFIT.search(id):
        raise Problem(404)
    outcome = signed_in(await admin.update(request.db, request.caller, id, rights))
    match outcome.verdict:
        case "forbidden":
            raise Problem(403)
        case "absent":
            raise Problem(404)
        case "oneself":
            raise Problem(409, ONESELF)
        case "last":
            raise Problem(409, LAST)
    return answer(outcome.user)
