import asyncio

import pytest

from tapir_core.calls import Failure
from tapir_core.calls.client import Client
from tests.doubles.provider import Drop, FakeProvider, FakeReply, Hang, Status

KEY = "sk-very-secret-0123456789"


def list_models(provider: FakeProvider, key: str | None = KEY) -> dict[str, str] | Failure | None:
    async def run() -> dict[str, str] | Failure | None:
        client = Client(provider.endpoint(api_key=key), timeout_seconds=0.5)
        try:
            return await client.list_models()
        finally:
            await client.close()

    with provider:
        return asyncio.run(run())


def test_models_are_listed_to_the_right_key() -> None:
    assert list_models(FakeProvider(models=["a", "b"], api_key=KEY)) == {"a": "", "b": ""}
    refused = list_models(FakeProvider(api_key="another"))
    assert isinstance(refused, Failure)
    assert refused.kind == "unauthorized"


@pytest.mark.parametrize("reply", [Status(404), Status(405), Status(200, "a page"), Status(200, {"data": 7})])
def test_a_server_may_list_no_models(reply: Status) -> None:
    assert list_models(FakeProvider(models=reply)) is None


@pytest.mark.parametrize(("reply", "kind"), [(Status(500), "server"), (Drop(), "connection"), (Hang(), "timeout")])
def test_a_list_that_does_not_come_is_a_failure(reply: FakeReply, kind: str) -> None:
    failure = list_models(FakeProvider(models=reply))
    assert isinstance(failure, Failure)
    assert failure.kind == kind


def test_the_key_is_neither_echoed_nor_carried_elsewhere() -> None:
    echoed = list_models(FakeProvider(models=Status(401, {"error": {"message": f"wrong: {KEY}"}})))
    assert KEY not in str(echoed)
    moved = Status(302, headers={"Location": "http://127.0.0.1:9/v1/models"})
    assert list_models(FakeProvider(models=moved)) is None, "not followed"
