"""The tests here run on every engine."""

from tests.services.stores import store, stores

__all__ = ["store", "stores"]
