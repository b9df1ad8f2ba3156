"""What a server process loads: `service.asgi:create`, a factory."""

import gc

from service.app import create_app
from service.edge import Edge
from service.logs import configure
from service.settings import load

YOUNG = 10_000  # containers made until the collector looks at the young ones; by default 700


def create() -> Edge:
    """The application under the environment's settings.

    What is loaded by now lives as long as the process. The garbage collector leaves it alone: else it walks through all of it
    about once a second under load, and every request that is under way waits for 50 ms.
    """
    settings = load()
    configure(settings)
    app = create_app(settings)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    return app
