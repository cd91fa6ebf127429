"""The page at `/` when the web UI is not installed."""

from __future__ import annotations

from typing import Final

from backend.api.web_ui.package import NAME, VERSION

ABSENT_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

ABSENT_PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Matyan</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto;
  padding: 0 1rem; color: #1f2933; }}
code {{ display: block; background: #f1f5f4; padding: .75rem 1rem; border-radius: 6px;
  overflow-x: auto; }}
a {{ color: #00796b; }}
</style>
</head>
<body>
<h1>Matyan is running</h1>
<p>Runs are being taken and kept. The web UI is not installed beside this server;
<b>make setup</b> installs it, or by hand, then restart the server:</p>
<code>pip install --no-deps --ignore-requires-python {NAME}=={VERSION}</code>
<p>What is here without it:</p>
<ul>
<li><a href="/api/v1/rest">The API, to be browsed</a></li>
<li><a href="/api/v1/schema">Its OpenAPI document</a></li>
<li><a href="/admin/">The administration</a></li>
<li><a href="/health/ready">Whether the server is ready</a></li>
</ul>
</body>
</html>
"""
