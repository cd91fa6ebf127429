"""The API over a real, empty store of each test's own."""

import json

import pytest
from django.test import Client

REST = "/api/v1/rest"


@pytest.fixture
def store(runtime):
    """The store the API uses."""
    return runtime.get_store()


class Api:
    """A test client that speaks JSON and knows where the API is."""

    def __init__(self):
        self.client = Client()

    def __call__(self, method, path, body=None, **headers):
        content = {} if body is None else {"data": json.dumps(body)}
        return self.client.generic(
            method,
            f"{REST}/{path}",
            content_type="application/json",
            headers=headers,
            **content,
        )

    def get(self, path, **headers):
        return self("GET", path, **headers)

    def post(self, path, body=None, **headers):
        return self("POST", path, body, **headers)

    def put(self, path, body=None, **headers):
        return self("PUT", path, body, **headers)

    def delete(self, path, **headers):
        return self("DELETE", path, **headers)


@pytest.fixture
def api(store):
    """A client of the API."""
    return Api()
