"""Cookies: who may come in under load, how long a cookie lasts, and what the MACs cover."""

from __future__ import annotations

from random import Random

import pytest

from sdwan.core.cookie import (
    COOKIE_BODY_BYTES,
    COOKIE_BYTES,
    MAC_BYTES,
    SECRET_LIFETIME_NS,
    CookieKeeper,
    check_mac1,
    mac,
    mac1_key,
    open_cookie,
)
from sdwan.core.wire import HEADER_BYTES
from sdwan.errors import HandshakeError

OWN, OTHER = bytes([1]) * 32, bytes([2]) * 32
MAC1 = bytes(range(16))
HERE, ELSEWHERE = b"192.0.2.1:4510", b"192.0.2.2:4510"
START_NS = 7 * 10**9


def keeper() -> CookieKeeper:
    return CookieKeeper(own_public=OWN, entropy=Random(1).randbytes)


def with_mac2(body: bytes, cookie: bytes) -> bytes:
    """A datagram of header and ``body`` that repeats ``cookie``."""
    datagram = bytes(HEADER_BYTES) + body
    return datagram + mac(cookie, datagram, len(datagram))


def test_a_cookie_proves_the_address_it_was_sent_to_and_no_other() -> None:
    cookies = keeper()
    body = cookies.reply(source=HERE, mac1=MAC1, now_ns=START_NS)
    assert len(body) == COOKIE_BODY_BYTES
    cookie = open_cookie(body, receiver_public=OWN, mac1=MAC1)
    assert len(cookie) == COOKIE_BYTES
    datagram = with_mac2(b"init", cookie)
    assert cookies.is_proven(datagram, source=HERE, now_ns=START_NS)
    assert not cookies.is_proven(datagram, source=ELSEWHERE, now_ns=START_NS)
    assert not cookies.is_proven(bytes(len(datagram)), source=HERE, now_ns=START_NS)
    assert not cookies.is_proven(b"other" + datagram[5:-1] + b"!", source=HERE, now_ns=START_NS)


@pytest.mark.parametrize("others", [True, False], ids=["busy", "quiet"])
@pytest.mark.parametrize(
    ("age_ns", "good"),
    [
        (0, True),
        (SECRET_LIFETIME_NS - 1, True),
        (SECRET_LIFETIME_NS, True),
        (2 * SECRET_LIFETIME_NS - 1, True),
        (2 * SECRET_LIFETIME_NS, False),
        (1000 * SECRET_LIFETIME_NS, False),
    ],
)
def test_a_cookie_lasts_one_to_two_lifetimes_of_the_secret(age_ns: int, good: bool, others: bool) -> None:
    cookies = keeper()
    body = cookies.reply(source=HERE, mac1=MAC1, now_ns=START_NS)
    datagram = with_mac2(b"init", open_cookie(body, receiver_public=OWN, mac1=MAC1))
    if others:  # somebody else's INITs keep the secrets changing
        for passed_ns in range(0, min(age_ns, 3 * SECRET_LIFETIME_NS), 10**10):
            cookies.is_proven(datagram, source=ELSEWHERE, now_ns=START_NS + passed_ns)
    assert cookies.is_proven(datagram, source=HERE, now_ns=START_NS + age_ns) is good


def test_a_cookie_is_sealed_for_who_sent_that_init_to_that_key() -> None:
    body = keeper().reply(source=HERE, mac1=MAC1, now_ns=START_NS)
    for public, mac1, answer in (
        (OTHER, MAC1, body),
        (OWN, bytes(16), body),
        (OWN, MAC1, body[:-1] + bytes([body[-1] ^ 1])),
        (OWN, MAC1, bytes([body[0] ^ 1]) + body[1:]),
    ):
        with pytest.raises(HandshakeError):
            open_cookie(answer, receiver_public=public, mac1=mac1)


def test_two_cookies_for_one_address_look_unlike_on_the_wire() -> None:
    cookies = keeper()
    first, second = (cookies.reply(source=HERE, mac1=MAC1, now_ns=START_NS) for _ in range(2))
    assert first != second
    opened = {open_cookie(body, receiver_public=OWN, mac1=MAC1) for body in (first, second)}
    assert len(opened) == 1


def test_a_mac_leaves_out_exactly_what_the_kernel_stamps() -> None:
    key = mac1_key(OWN)
    datagram = bytearray(bytes(HEADER_BYTES) + b"body")
    plain = mac(key, bytes(datagram), len(datagram))
    free = set()
    for position in range(len(datagram)):
        datagram[position] ^= 0xFF
        if mac(key, bytes(datagram), len(datagram)) == plain:
            free.add(position)
        datagram[position] ^= 0xFF
    assert free == {0, 1, 2, 3, *range(16, 24)}


def test_mac1_tells_who_knows_our_public_key() -> None:
    datagram = bytes(HEADER_BYTES) + b"body"
    good = datagram + mac(mac1_key(OWN), datagram, len(datagram))
    assert check_mac1(good, key=mac1_key(OWN), trailing_bytes=0) == good[-MAC_BYTES:]
    assert check_mac1(good + b"tail", key=mac1_key(OWN), trailing_bytes=4) == good[-MAC_BYTES:]
    with pytest.raises(HandshakeError, match="MAC1"):
        check_mac1(good, key=mac1_key(OTHER), trailing_bytes=0)


def test_the_keeper_shows_no_secret() -> None:
    assert repr(keeper()) == "CookieKeeper()"
