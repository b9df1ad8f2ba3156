"""Indexes.

What statements and cascades ride on. They only serve speed, and can go and come while the service runs.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = {
    "sessions_user_id_idx": "sessions (user_id)",
    "tasks_user_id_created_at_id_idx": "tasks (user_id, created_at desc, id desc) where deleted_at is null",
    "tasks_user_id_revision_idx": "tasks (user_id, revision)",
    "tombstones_user_id_revision_idx": "tombstones (user_id, revision)",
    "conversations_user_id_updated_at_id_idx": "conversations (user_id, updated_at desc, id desc)",
    "messages_conversation_id_id_idx": "messages (conversation_id, id)",
    "messages_user_id_idx": "messages (user_id)",
}


def upgrade() -> None:
    # Concurrently, because after a downgrade the tables are full and in use. A build that failed leaves an
    # invalid index of the same name behind, which `if not exists` would take for done: hence the drop.
    with op.get_context().autocommit_block():
        op.execute("set statement_timeout = 0")
        for name, columns in INDEXES.items():
            op.execute(f"drop index concurrently if exists {name}")
            op.execute(f"create index concurrently if not exists {name} on {columns}")
        op.execute("set statement_timeout = '60s'")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("set statement_timeout = 0")
        for name in reversed(INDEXES):
            op.execute(f"drop index concurrently if exists {name}")
        op.execute("set statement_timeout = '60s'")
