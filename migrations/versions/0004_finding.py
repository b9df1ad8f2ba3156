"""Finding.

The trash in the order of its list, apart from the live tasks: it stays as small as the trash is.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "tasks_trash_idx": "tasks (user_id, created_at desc, id desc) where deleted_at is not null",
}


def upgrade() -> None:
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
