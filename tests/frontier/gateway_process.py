"""A gateway process: `python -m tests.frontier.gateway_process PORT`."""

from __future__ import annotations

import sys


def main() -> None:
    import django

    django.setup()
    from django.core.handlers.asgi import ASGIHandler

    from frontier.routing import application
    from frontier.server import serve

    serve(application(ASGIHandler()), host="127.0.0.1", port=int(sys.argv[1]))


if __name__ == "__main__":
    main()
