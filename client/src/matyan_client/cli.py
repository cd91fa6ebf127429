"""`matyan-client`: look at servers and at journals that wait to be delivered.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 usage.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from matyan_client import _env, console
from matyan_client.access import choose_endpoints
from matyan_client.delivery import orphans
from matyan_client.delivery.gateway import find_gateway
from matyan_client.delivery.orphans import JournalState, Outcome
from matyan_client.journal import directory as directories
from matyan_client.rest import NotFoundError, QueryError, RestClient, ServerError
from matyan_client.urls import BaseUrl

_LEAST_STALL_S: Final = 0.2

_json = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
_backend = click.option("--backend-url", help="Server; else MATYAN_BACKEND_URL.")
_frontier = click.option("--frontier-url", help="Gateway, where it is elsewhere.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="matyan-client")
def main() -> None:
    """Talk to a Matyan server, and deliver what waits on this machine."""


@main.command()
@_backend
@_frontier
@_json
def status(backend_url: str | None, frontier_url: str | None, *, as_json: bool) -> None:
    """Ask backend and gateway for their versions."""
    try:
        endpoints = choose_endpoints(backend_url, frontier_url)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    backend = endpoints.backend
    frontier = endpoints.frontier or find_gateway(backend) or backend
    rows = [_version("backend", backend), _version("gateway", frontier)]
    if as_json:
        click.echo(json.dumps({"services": rows}))
    else:
        for row in rows:
            state = row["version"] or f"unreachable: {row['error']}"
            click.echo(f"{row['service']:8} {row['url']:32} {state}")
    if any(row["error"] for row in rows):
        raise click.exceptions.Exit(1)


def _version(service: str, address: BaseUrl) -> dict[str, Any]:
    row: dict[str, Any] = {"service": service, "url": str(address)}
    client = RestClient(address)
    try:
        answer = client.get("version/")
        return {**row, "version": str(answer["version"]), "error": None}
    except (KeyError, TypeError):
        problem = f"{address} answers, but is no Matyan API address"
        return {**row, "version": None, "error": problem}
    except (ServerError, NotFoundError, QueryError) as error:
        return {**row, "version": None, "error": str(error)}
    finally:
        client.close()


@main.command()
@_json
def journal(*, as_json: bool) -> None:
    """List the journals on this machine."""
    states = list(orphans.iter_states(_env.state_dir()))
    if as_json:
        click.echo(json.dumps({"journals": [_state_row(state) for state in states]}))
        return
    if not states:
        click.echo("no journals", err=True)
    for state in states:
        whose = "waiting"
        if state.owned:
            whose = f"in use by {directories.holder(state.path, state.meta)}"
        click.echo(f"{state.meta.run_id:34} {whose:18} {state.bytes:>12} {state.path}")


def _state_row(state: JournalState) -> dict[str, Any]:
    return {
        "run": state.meta.run_id,
        "writer": state.meta.writer,
        "server": str(BaseUrl.parse(state.meta.backend_url)),
        "owned": state.owned,
        "held_by": directories.holder(state.path, state.meta) if state.owned else None,
        "bytes": state.bytes,
        "created_us": state.meta.created_us,
        "path": str(state.path),
    }


@main.command()
@_backend
@_frontier
@click.option(
    "--journal",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Only this journal; may be repeated.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds to go on trying while nothing gets through.",
)
@click.option("--quiet", is_flag=True, help="Say nothing.")
@_json
def sync(  # noqa: PLR0913 - one per option
    backend_url: str | None,
    frontier_url: str | None,
    paths: tuple[Path, ...],
    wait_s: float,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Deliver the journals that dead processes left behind."""
    for url in (backend_url, frontier_url):
        _check_url(url)
    deadline = time.monotonic() + wait_s
    line = console.ProgressLine()
    outcomes: list[Outcome] = []
    for path, meta in _chosen(paths):
        outcome = orphans.deliver(
            path,
            meta,
            stall_s=max(_LEAST_STALL_S, deadline - time.monotonic()),
            backend_url=backend_url,
            frontier_url=frontier_url,
            on_progress=(lambda _: None) if quiet else line.show,
        )
        line.clear()
        outcome = outcome or _held(path)
        if outcome is not None:
            outcomes.append(outcome)
    if as_json:
        rows = [{**asdict(outcome), "path": str(outcome.path)} for outcome in outcomes]
        click.echo(json.dumps({"journals": rows}))
    elif not quiet:
        for outcome in outcomes:
            click.echo(_sentence(outcome), err=True)
        if not outcomes:
            click.echo("nothing waits to be delivered", err=True)
    if not all(outcome.complete for outcome in outcomes):
        raise click.exceptions.Exit(1)


def _check_url(url: str | None) -> None:
    if url is None:
        return
    try:
        BaseUrl.parse(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _chosen(paths: tuple[Path, ...]) -> list[tuple[Path, directories.Meta]]:
    if not paths:
        return list(directories.iter_journals(_env.state_dir()))
    found: list[tuple[Path, directories.Meta]] = []
    for path in paths:
        meta = directories.read_meta(path)
        if meta is None:
            msg = f"there is no journal at {path}; `matyan-client journal` lists them"
            raise click.UsageError(msg)
        found.append((path, meta))
    return found


def _held(path: Path) -> Outcome | None:
    """Return the outcome of a journal that others hold; None if it is gone."""
    meta = directories.read_meta(path)
    if meta is None:
        return None
    pid = directories.holder(path, meta)
    problem = (
        f"process {pid} holds it: it records the run, or delivers it already"
        if pid
        else "another process holds it"
    )
    return Outcome(path, meta.run_id, complete=False, problem=problem)


def _sentence(outcome: Outcome) -> str:
    notes = f", {outcome.uploads} uploads" if outcome.uploads else ""
    notes += f", {outcome.damaged} damaged" if outcome.damaged else ""
    notes += f", {outcome.refused} refused" if outcome.refused else ""
    if not outcome.complete:
        return f"run {outcome.run_id}: NOT delivered{notes}: {outcome.problem}"
    text = f"run {outcome.run_id}: {outcome.points} points delivered{notes}"
    if not outcome.finished:
        text += (
            "; its process ended without close(), so the run stays active. "
            f"Run({outcome.run_id!r}).close() finishes it."
        )
    return text
