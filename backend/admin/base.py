"""Operators' pages over what is not in Django's tables.

An anchor model gives permissions, a place in the menu and the audit trail; the pages
are ours. They read through repositories and services, are paged by cursors, and change
things by POST after a confirmation, as jobs where that may take long.

Design note: docs/admin.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

from backend.admin.cells import Action, Table
from backend.errors import MatyanError, NotFoundError
from backend.maintenance import request_job

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:  # generic in its type stubs alone
    _ModelAdmin = admin.ModelAdmin

PAGE: Final = 50
TEMPLATES: Final = "admin/backend/store/"

View = Callable[..., HttpResponse]

ALL: Final = "*"
"""The key that stands for every row, those on other pages included."""

UNKNOWN: Final = "not there (any more)"


class StoreAdmin(_ModelAdmin):
    """Pages of one anchor: a list, details below it, actions.

    Attributes:
        heading: Title of the list.
        intro: What a person sees here and when to worry.
        actions_offered: Actions on rows of the list and details.
        acts_on_all: Names of those that can be done to all rows at once, as `ALL`.
    """

    heading: ClassVar[str]
    intro: ClassVar[str] = ""
    actions_offered: ClassVar[Sequence[Action]] = ()
    acts_on_all: ClassVar[frozenset[str]] = frozenset()

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

    def describe(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Return what the keys stand for, for whoever has to confirm an action."""
        return {}

    def more_urls(self) -> list[Any]:
        """Return the routes of pages beside the list and the details."""
        return []

    @override
    def get_urls(self) -> Any:
        name = self.opts.model_name
        urls = [path("", self.page_of(self._list), name=f"backend_{name}_changelist")]
        urls += self.more_urls()
        urls += [
            path(
                f"do/{action.name}/",
                self.page_of(self._action(action), safe=False),
                name=f"backend_{name}_{action.name}",
            )
            for action in self.actions_offered
        ]
        detail = self.page_of(self._detail)
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

    def audit(self, request: HttpRequest, key: str, what: str, name: str = "") -> None:
        """Note in the audit log who did what to what, by its name of that time."""
        anchor = ContentType.objects.get_for_model(self.model, for_concrete_model=False)
        LogEntry.objects.create(
            user_id=request.user.pk or 0,
            content_type=anchor,
            object_id=key,
            object_repr=("all of them" if key == ALL else name or key)[:200],
            action_flag=CHANGE,
            change_message=what,
        )

    def start_job(self, request: HttpRequest, job: str, **arguments: Any) -> str:
        """Ask for a job; return the address of its page."""
        asked = request_job(job, arguments=arguments, user=request.user)
        messages.info(request, f"Job {asked.pk} has been asked for.")
        return reverse("admin:backend_maintenancerequest_change", args=[asked.pk])

    def page_of(self, view: View, *, safe: bool = True) -> View:
        """Wrap a view: signed in, permitted, of the right method, errors as pages."""

        def guarded(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if not self.allowed(request, "view"):
                return self._forbidden(request)
            try:
                return view(request, **kwargs)
            except PermissionDenied:
                return self._forbidden(request)
            except MatyanError as error:
                return self._failed(request, error)

        method = require_safe if safe else require_POST
        return self.admin_site.admin_view(method(guarded))

    def _forbidden(self, request: HttpRequest) -> HttpResponse:
        context = {
            "heading": "Not permitted",
            "what": f"{request.user} may not do this.",
            "advice": "Whoever may change users can give the permission, under Users.",
        }
        return self.render(request, "failed", context, 403)

    def _failed(self, request: HttpRequest, error: MatyanError) -> HttpResponse:
        status = error.http_status
        if isinstance(error, NotFoundError):
            heading, advice = "Not found", "It may be gone since the page was made."
        elif status >= 500:
            heading = f"{self.heading}: no answer"
            advice = (
                "Nothing was changed. Data that runs send meanwhile waits in the "
                "event log, or with the runs themselves. See that what is named above "
                "runs and has room on its disk, then load this page again."
            )
        else:
            heading, advice = "Refused", "Nothing was changed."
        context = {"heading": heading, "what": str(error), "advice": advice}
        return self.render(request, "failed", context, status)

    def render(
        self,
        request: HttpRequest,
        template: str,
        context: Mapping[str, Any],
        status: int = 200,
    ) -> HttpResponse:
        """Return a page from one of the templates every anchor's pages share."""
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
        return self.render(request, "list", context)

    def _detail(self, request: HttpRequest, key: str) -> HttpResponse:
        page = self.detail_page(request, key)
        left_out = page.get("left_out", ())
        offered = [a for a in self.offered(request) if a.name not in left_out]
        context = {"key": key, "actions": self._buttons(offered, single=True), **page}
        return self.render(request, "detail", context)

    def table(self, request: HttpRequest, columns: Sequence[str], **kw: Any) -> Table:
        """Return a table whose rows the person's actions can be done to."""
        return Table(columns, actions=self._buttons(self.offered(request)), **kw)

    def _buttons(self, actions: list[Action], *, single: bool = False) -> Any:
        return [
            {
                "url": self.url(action.name),
                "label": (single and action.single) or action.label,
                "mood": "bad" if action.permission == "delete" else "",
                "on_all": action.name in self.acts_on_all,
            }
            for action in actions
        ]

    def _action(self, action: Action) -> View:
        def view(request: HttpRequest) -> HttpResponse:
            if not self.allowed(request, action.permission):
                raise PermissionDenied
            keys = list(dict.fromkeys(request.POST.getlist("key")))
            if action.name in self.acts_on_all and request.POST.get("all") == "yes":
                keys = [ALL]
            if not keys:
                messages.warning(request, "Nothing was chosen.")
                return HttpResponseRedirect(self.url("changelist"))
            if request.POST.get("confirmed") != "yes":
                return self.render(request, "confirm", self._question(action, keys))
            named = {} if keys == [ALL] else self.describe(keys)
            target = self.act(request, action, keys)
            for key in keys:
                self.audit(request, key, f"{action.label}.", named.get(key, ""))
            return HttpResponseRedirect(target or self.url("changelist"))

        return view

    def _question(self, action: Action, keys: list[str]) -> Mapping[str, Any]:
        """Return what the page says that asks for a confirmation."""
        on_all = keys == [ALL]
        known = {} if on_all else self.describe(keys)
        return {
            "heading": f"{action.label}?",
            "action": action,
            "action_url": self.url(action.name),
            "on_all": on_all,
            "chosen": [(key, known.get(key, UNKNOWN if known else "")) for key in keys],
        }
