"""Run by Alembic: the scripts work on the connection that the store hands over, inside the store's own transaction."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
