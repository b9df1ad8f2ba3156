"""Alembic's migrations. A package, so that the wheel carries them."""
