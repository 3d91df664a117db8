"""Who asks: what cannot be made up tells callers apart, and nothing else does."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from playground.api.asker import admin, caller_of, household
from playground.errors import NotPermitted
from playground.types import Caller

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


def connection(**state: object) -> HTTPConnection:
    return HTTPConnection({"type": "http", "headers": [], "client": ("192.0.2.7", 1), "state": state})


def test_who_the_gate_has_found_is_who_asks():
    """A6: without a gate it is the address, which may do nothing for all."""
    anna = Caller("user anna", "user", "anna")
    assert caller_of(connection(caller=anna)) is anna
    assert caller_of(connection()) == Caller("address 192.0.2.7", "address", address="192.0.2.7")


def test_only_an_administrator_changes_what_all_others_notice():
    """A6: whoever is refused is told what it takes: the key, or first of all that there is one."""
    boss = Caller("key 0123456789ab", "key", admin=True)
    assert admin(connection(caller=boss)) is boss
    for state, words in (({}, "--admin-key"), ({"has_admin_key": True}, "Send its admin key")):
        with pytest.raises(NotPermitted, match=words):
            admin(connection(caller=Caller("user anna", "user"), **state))
