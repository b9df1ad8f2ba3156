"""What a server process loads: `service.asgi:create`, a factory."""

from service.app import create_app
from service.edge import Edge
from service.logs import configure
from service.settings import load


def create() -> Edge:
    """The application under the environment's settings."""
    settings = load()
    configure(settings)
    return create_app(settings)
