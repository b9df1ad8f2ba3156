"""Types that several rows share."""

from datetime import datetime
from typing import Annotated, TypeAlias

from msgspec import Meta

# A moment, in UTC; JSON has it in the form of RFC 3339 with a Z.
Instant: TypeAlias = Annotated[datetime, Meta(tz=True)]
# The same, as the database has told it already (fragment `told`), for rows that come by the hundred.
Told: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
