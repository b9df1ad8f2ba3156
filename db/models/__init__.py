"""The schema of record: what Alembic compares the database with. No request path imports this package."""

from sqlmodel import SQLModel

from db.models.conversations import Conversation, Message
from db.models.idempotency import IdempotencyKey
from db.models.sessions import Session
from db.models.tasks import Task, TaskTexts, Tombstone
from db.models.users import User, UserState

metadata = SQLModel.metadata

__all__ = [
    "Conversation",
    "IdempotencyKey",
    "Message",
    "Session",
    "Task",
    "TaskTexts",
    "Tombstone",
    "User",
    "UserState",
    "metadata",
]
