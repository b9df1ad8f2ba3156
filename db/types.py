"""Types that several rows share."""

from datetime import datetime
from typing import Annotated, TypeAlias

from msgspec import Meta

# A moment, in UTC; JSON has it in the form of RFC 3339 with a Z.
Instant: TypeAlias = Annotated[datetime, Meta(tz=True)]
