"""Operators' pages over what is not in Django's tables.

An anchor model gives permissions, a place in the menu and the audit trail; the pages
are ours. They read through repositories and services, are paged by cursors, and change
things by POST after a confirmation, as jobs where that may take long.

Design note: docs/admin.md
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe
from typing_extensions import override

from backend.errors import MatyanError, NotFoundError
from backend.maintenance import request_job

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:  # generic in its type stubs alone
    _ModelAdmin = admin.ModelAdmin

PAGE: Final = 50
TEMPLATES: Final = "admin/backend/store/"

View = Callable[..., HttpResponse]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        url: Where it leads, "" for nowhere.
        mood: "good", "bad", "warn" or "".
    """

    text: Any
    url: str = ""
    mood: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """Something that can be done to chosen rows.

    Attributes:
        name: In its address, and of its view.
        label: On its button.
        permission: Needed: "change" or "delete".
        warning: What a person must know before.
    """

    name: str
    label: str
    permission: str
    warning: str


@dataclass(slots=True)
class Table:
    """One table of a page.

    Attributes:
        columns: Headings.
        rows: (key, cells); the key is what an action is given, "" for none.
        title: Above it.
        empty: Said when there are no rows.
        actions: What can be done to rows.
        next_url: The next page, "" on the last.
    """

    columns: Sequence[str]
    rows: list[tuple[str, list[Any]]] = field(default_factory=list)
    title: str = ""
    empty: str = "Nothing here."
    actions: Sequence[Action] = ()
    next_url: str = ""


class StoreAdmin(_ModelAdmin):
    """Pages of one anchor: a list, details below it, actions.

    Attributes:
        heading: Title of the list.
        intro: What a person sees here and when to worry.
        actions_offered: Actions on rows of the list and details.
    """

    heading: ClassVar[str]
    intro: ClassVar[str] = ""
    actions_offered: ClassVar[Sequence[Action]] = ()

    def list_page(self, request: HttpRequest) -> Mapping[str, Any]:
        """Return the context of the list; `tables` at least."""
        raise NotImplementedError

    def detail_page(self, request: HttpRequest, key: str) -> Mapping[str, Any]:
        """Return the context of one thing's page.

        Raises:
            NotFoundError: If there is no such thing.
        """
        raise Http404

    def act(self, request: HttpRequest, action: Action, keys: list[str]) -> str:
        """Do an action that was confirmed; return where to go on, "" for the list."""
        raise NotImplementedError

    @override
    def get_urls(self) -> Any:
        name = self.opts.model_name
        urls = [path("", self._page(self._list), name=f"backend_{name}_changelist")]
        urls += [
            path(
                f"do/{action.name}/",
                self._page(self._action(action), safe=False),
                name=f"backend_{name}_{action.name}",
            )
            for action in self.actions_offered
        ]
        detail = self._page(self._detail)
        urls.append(path("of/<path:key>/", detail, name=f"backend_{name}_detail"))
        return urls

    @override
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @override
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # no stock form; actions ask `allowed`

    @override
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def url(self, page: str, *args: Any, **query: Any) -> str:
        """Return the address of one of these pages."""
        found = reverse(f"admin:backend_{self.opts.model_name}_{page}", args=args)
        given = {name: value for name, value in query.items() if value != ""}
        return f"{found}?{urlencode(given)}" if given else found

    def allowed(self, request: HttpRequest, permission: str) -> bool:
        """Return whether the person has a permission on this anchor."""
        code = f"{self.opts.app_label}.{permission}_{self.opts.model_name}"
        return request.user.has_perm(code)

    def offered(self, request: HttpRequest) -> list[Action]:
        """Return the actions the person may do."""
        return [
            action
            for action in self.actions_offered
            if self.allowed(request, action.permission)
        ]

    def audit(self, request: HttpRequest, key: str, what: str) -> None:
        """Note in the audit log who did what to what."""
        anchor = ContentType.objects.get_for_model(self.model, for_concrete_model=False)
        LogEntry.objects.create(
            user_id=request.user.pk or 0,
            content_type=anchor,
            object_id=key,
            object_repr=key[:200],
            action_flag=CHANGE,
            change_message=what,
        )

    def start_job(self, request: HttpRequest, job: str, **arguments: Any) -> str:
        """Ask for a job; return the address of its page."""
        asked = request_job(job, arguments=arguments, user=request.user)
        messages.info(request, f"Job {asked.pk} has been asked for.")
        return reverse("admin:backend_maintenancerequest_change", args=[asked.pk])

    def _page(self, view: View, *, safe: bool = True) -> View:
        """Wrap a view: signed in, permitted, of the right method, errors as pages."""

        def guarded(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if not self.allowed(request, "view"):
                raise PermissionDenied
            try:
                return view(request, **kwargs)
            except NotFoundError as error:
                raise Http404(str(error)) from error
            except MatyanError as error:
                context = {"error": str(error), "heading": self.heading}
                return self._render(request, "failed", context, error.http_status)

        method = require_safe if safe else require_POST
        return self.admin_site.admin_view(method(guarded))

    def _render(
        self,
        request: HttpRequest,
        template: str,
        context: Mapping[str, Any],
        status: int = 200,
    ) -> HttpResponse:
        response = TemplateResponse(
            request,
            f"{TEMPLATES}{template}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": context.get("heading", self.heading),
                "list_heading": self.heading,
                "list_url": self.url("changelist"),
                **context,
            },
            status=status,
        )
        # Within the guard: what rendering raises is a page too.
        return response.render()

    def _list(self, request: HttpRequest) -> HttpResponse:
        context = {"intro": self.intro, **self.list_page(request)}
        return self._render(request, "list", context)

    def _detail(self, request: HttpRequest, key: str) -> HttpResponse:
        context = {
            "key": key,
            "actions": self._with_urls(self.offered(request)),
            **self.detail_page(request, key),
        }
        return self._render(request, "detail", context)

    def table(self, request: HttpRequest, columns: Sequence[str], **kw: Any) -> Table:
        """Return a table whose rows the person's actions can be done to."""
        return Table(columns, actions=self._with_urls(self.offered(request)), **kw)

    def _with_urls(self, actions: list[Action]) -> Any:
        return [{"url": self.url(a.name), "label": a.label} for a in actions]

    def _action(self, action: Action) -> View:
        def view(request: HttpRequest) -> HttpResponse:
            if not self.allowed(request, action.permission):
                raise PermissionDenied
            keys = list(dict.fromkeys(request.POST.getlist("key")))
            if not keys:
                messages.warning(request, "Nothing was chosen.")
                return HttpResponseRedirect(self.url("changelist"))
            if request.POST.get("confirmed") != "yes":
                context = {
                    "heading": f"{action.label}?",
                    "action": action,
                    "action_url": self.url(action.name),
                    "keys": keys,
                }
                return self._render(request, "confirm", context)
            target = self.act(request, action, keys)
            for key in keys:
                self.audit(request, key, f"{action.label}.")
            return HttpResponseRedirect(target or self.url("changelist"))

        return view


def moment(time_us: int | None) -> str:
    """Return a time for people, UTC; "" for none."""
    if not time_us:
        return ""
    when = datetime.fromtimestamp(time_us / 1e6, UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return how long something takes or is ago, in the two largest units."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def amount(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def now_us() -> int:
    """Return the wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000
