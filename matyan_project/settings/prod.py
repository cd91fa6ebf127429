"""Several machines: refuses what is only safe on one."""

from matyan_project.settings.base import *  # noqa: F403 - settings are layered

SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
SECURE_CONTENT_TYPE_NOSNIFF = True
if MATYAN_TRUST_FORWARDED:  # noqa: F405 - of the base
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
