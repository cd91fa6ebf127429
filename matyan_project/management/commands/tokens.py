"""`manage.py tokens`: make, list and revoke API tokens."""

from __future__ import annotations

import argparse
import json
import re
from datetime import datetime, timedelta
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from typing_extensions import override

from backend.access import tokens
from backend.domain.access import Scope
from backend.models import ApiToken
from matyan_project.tables import prepare_tables

_AGE: Final = re.compile(r"(?P<count>[1-9]\d{0,4})(?P<unit>[hdw])\Z")
_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}


class Command(BaseCommand):
    help = "Make, list and revoke the tokens that let programs in."

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="make a token and print it, once")
        create.add_argument("name", help="what it is for")
        create.add_argument(
            "--scope",
            choices=[scope.value for scope in Scope],
            default=Scope.WRITE.value,
            help="read looks; write also logs runs (default); admin also deletes",
        )
        create.add_argument(
            "--expires",
            type=_moment,
            help="when it ends: an age such as 12h, 90d, 8w, or a date; else never",
        )
        listing = actions.add_parser("list", help="list tokens, without their secrets")
        revoke = actions.add_parser("revoke", help="refuse a token from now on")
        revoke.add_argument("token_id", help="its id, as `list` shows it")
        for action in (create, listing, revoke):
            action.add_argument("--json", action="store_true", dest="as_json")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        prepare_tables(self.stderr.write)
        actions = {"create": self._create, "list": self._list, "revoke": self._revoke}
        actions[options["action"]](options)

    def _create(self, options: dict[str, Any]) -> None:
        try:
            row, text = tokens.create_token(
                name=options["name"],
                scope=Scope(options["scope"]),
                expires_at=options["expires"],
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        if options["as_json"]:
            self._print_json({**_fields(row), "token": text})
            return
        self.stdout.write(text)
        self.stderr.write("Keep it: it is not stored and not shown again.")

    def _list(self, options: dict[str, Any]) -> None:
        rows = list(ApiToken.objects.select_related("created_by"))
        if options["as_json"]:
            self._print_json({"tokens": [_fields(row) for row in rows]})
            return
        if not rows:
            self.stderr.write("no tokens; make one with `manage.py tokens create NAME`")
        for row in rows:
            used = _iso(row.last_used_at) or "never"
            self.stdout.write(
                f"{row.token_id}  {row.scope:5}  {row.state:7}  used {used:25}  "
                f"{row.name}"
            )

    def _revoke(self, options: dict[str, Any]) -> None:
        row = ApiToken.objects.filter(token_id=options["token_id"]).first()
        if row is None:
            msg = f"there is no token {options['token_id']!r}; see `tokens list`"
            raise CommandError(msg)
        tokens.revoke_token(row)
        row.refresh_from_db()
        if options["as_json"]:
            self._print_json(_fields(row))
        else:
            self.stdout.write(f"{row.token_id} is revoked; servers notice within 10 s")

    def _print_json(self, value: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(value))


def _moment(text: str) -> datetime:
    if age := _AGE.match(text):
        unit = {_UNITS[age["unit"]]: int(age["count"])}
        return timezone.now() + timedelta(**unit)
    moment = parse_datetime(text)
    if moment is None and (day := parse_date(text)):
        moment = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - made aware below
    if moment is None:
        msg = f"{text!r} is neither an age such as 90d nor a date such as 2030-01-31"
        raise argparse.ArgumentTypeError(msg)
    moment = moment if timezone.is_aware(moment) else timezone.make_aware(moment)
    if moment <= timezone.now():
        msg = f"{text!r} is in the past"
        raise argparse.ArgumentTypeError(msg)
    return moment


def _fields(row: ApiToken) -> dict[str, Any]:
    return {
        "id": row.token_id,
        "name": row.name,
        "scope": row.scope,
        "state": row.state,
        "created_at": _iso(row.created_at),
        "created_by": row.created_by.get_username() if row.created_by else None,
        "expires_at": _iso(row.expires_at),
        "last_used_at": _iso(row.last_used_at),
        "revoked_at": _iso(row.revoked_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
