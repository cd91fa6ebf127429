"""Django system checks: a bad setting fails `manage.py check` with an id and a hint."""
