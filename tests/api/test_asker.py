"""Who asks: what cannot be made up tells callers apart, and nothing else does."""

from __future__ import annotations

import pytest

from playground.api.asker import household

KEY = "sk-very-secret"


def test_a_caller_is_its_address_whatever_it_calls_itself(ask, fake):
    """G2, S3: invented users and keys gain no turns, and no key is kept in a request."""
    ask(), ask(user="one"), ask(user="two")
    assert len({request.user for request in fake.requests}) == 1
    assert fake.requests[0].user.startswith("address ")


def test_no_key_reaches_the_engine(client, fake):
    """S3: keys are never stored, logged or echoed; this server hands out none, so that they prove nothing."""
    body = {"model": "starter", "messages": [{"role": "user", "content": "Hello"}]}
    for key in (KEY, "another"):
        answer = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
    assert len({request.user for request in fake.requests}) == 1
    assert KEY not in repr(fake.requests)


@pytest.mark.parametrize(
    ("host", "caller"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::/64"),
     ("2001:db8::ffff:1", "2001:db8::/64"), ("fe80::1%eth0", "fe80::/64"), ("testclient", "testclient"), ("", "")],
)  # fmt: skip
def test_one_household_is_one_caller(host, caller):
    """G2: somebody with a whole network of IPv6 addresses has one turn like everybody."""
    assert household(host) == caller
