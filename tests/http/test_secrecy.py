"""What a key learns of other keys, and of models that it may not use: nothing."""

import pytest
from starlette.testclient import TestClient

from kameleon.http import KeyRing, create_app
from kameleon.serving import Limits

ONE, OTHER = "the-key-of-one-client", "the-key-of-another-one"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{ONE}\n{OTHER}\n")
    path.chmod(0o600)
    return KeyRing.read(path)


@pytest.mark.parametrize("model", ["tiny", "law"])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_key_finds_in_the_cache_what_it_sent_itself_unless_prefixes_are_shared(
    make_service, shelf, keys, model, is_shared
):
    service = make_service(Limits(kv_cache_bytes=4 << 20, share_prefixes=is_shared))
    with TestClient(create_app(service, keys=keys), base_url="http://127.0.0.1") as client:

        def found(key, user):
            wish = {"model": model, "prompt": "a secret " * 9, "max_tokens": 1, "user": user}
            told = client.post("/v1/completions", json=wish, headers=bearer(key)).json()
            return told["usage"]["prompt_tokens_details"]["cached_tokens"] > 0

        assert [found(ONE, "a"), found(ONE, "b")] == [False, True]  # a user is any name that a client writes
        assert found(OTHER, "a") == is_shared
        assert found(OTHER, "a")
