#!/usr/bin/env python
"""Django's command line, the way into everything: `python manage.py help`."""

import sys

from matyan_project import data_dir, env, lifeline


def main() -> None:
    """Run the command on the command line."""
    if reason := data_dir.missing_store(sys.argv):
        sys.exit(reason)
    env.use_settings("matyan_project.settings.dev")
    lifeline.watch()
    try:
        from django.core.management import (  # noqa: PLC0415 - tells when it is missing
            execute_from_command_line,
        )
    except ImportError:
        sys.exit("Django is not installed here. Run `make setup` first.")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
