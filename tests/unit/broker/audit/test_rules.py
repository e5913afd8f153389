"""What may stand in the log, and what is made of hostile text (BOUNDARY C16, J2, J3, J8)."""

from __future__ import annotations

import base64
import math
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.broker.audit.model import SHAPES, Event, Kind, Outcome
from leasehold.broker.audit.rules import GONE, check, looks_secret, redact_host, redact_target, rfc3339
from leasehold.core.errors import AuditError
from leasehold.core.limits import LIMITS
from leasehold.core.secret import Secret

SAMPLES: dict[Kind, object] = {
    Kind.TEXT: "text",
    Kind.TEXTS: ["a", "b"],
    Kind.HOST: "api.forge.example",
    Kind.TARGET: "/repos/acme",
    Kind.COUNT: 3,
    Kind.INTEGER: -9,
    Kind.TIME: 1.5,
}


def sample(event: Event) -> dict[str, object]:
    """Fields that fit the event."""
    return {name: SAMPLES[kind] for name, kind in SHAPES[event].fields.items()}


def task_of(event: Event) -> str | None:
    return "7f3k" if SHAPES[event].of_task else None


@pytest.mark.parametrize("event", Event)
def test_every_event_has_a_shape_and_takes_it(event: Event) -> None:
    cleaned = check(event, Outcome.DONE, task_of(event), sample(event))
    assert cleaned.keys() == SHAPES[event].fields.keys()


@pytest.mark.parametrize("event", Event)
def test_a_field_too_many_or_too_few_is_refused(event: Event) -> None:
    fields = sample(event)
    with pytest.raises(AuditError, match="undocumented: 'authorization'"):
        check(event, Outcome.DONE, task_of(event), {**fields, "authorization": "x"})
    missing = sorted(fields)[0]
    with pytest.raises(AuditError, match=missing):
        check(event, Outcome.DONE, task_of(event), {name: fields[name] for name in fields if name != missing})


@pytest.mark.parametrize("event", Event)
def test_a_task_where_none_belongs_and_none_where_one_does_are_refused(event: Event) -> None:
    wrong = None if SHAPES[event].of_task else "7f3k"
    with pytest.raises(AuditError, match="task"):
        check(event, Outcome.DONE, wrong, sample(event))


def test_event_and_outcome_are_of_their_lists() -> None:
    with pytest.raises(AuditError, match="not an event"):
        check("task:opened", Outcome.DONE, "7f3k", {})  # type: ignore[arg-type]  # what is tested
    with pytest.raises(AuditError, match="not an outcome"):
        check(Event.DAEMON_STARTED, "done", None, {"pid": 1})  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("wrong", [Secret(b"hunter2"), b"bytes", True, {"a": 1}, [Secret(b"hunter2")], object()])
def test_a_secret_or_any_other_type_is_refused_and_not_shown(kind: Kind, wrong: object) -> None:
    event, name = next((e, n) for e, s in SHAPES.items() for n, k in s.fields.items() if k is kind)
    with pytest.raises(AuditError) as caught:
        check(event, Outcome.DONE, task_of(event), {**sample(event), name: wrong})
    assert "hunter2" not in str(caught.value) + caught.value.hint
    assert caught.value.__context__ is None


@pytest.mark.parametrize("pid", [-1, 2**53, 1.0, None, "1"])
def test_a_count_is_a_number_that_every_reader_keeps_exact(pid: object) -> None:
    with pytest.raises(AuditError, match="pid takes a count"):
        check(Event.DAEMON_STARTED, Outcome.DONE, None, {"pid": pid})
    assert check(Event.DAEMON_STARTED, Outcome.DONE, None, {"pid": 2**53 - 1}) == {"pid": 2**53 - 1}


def test_an_integer_may_be_unknown() -> None:
    assert check(Event.ENVOY_RESTARTED, Outcome.FAILED, None, {"status": None}) == {"status": None}
    assert check(Event.ENVOY_RESTARTED, Outcome.FAILED, None, {"status": -9}) == {"status": -9}


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e18])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    fields = {**sample(Event.HOST_USED), "first": seconds}
    with pytest.raises(AuditError, match="first is no time"):
        check(Event.HOST_USED, Outcome.ALLOWED, "7f3k", fields)


@given(st.floats(min_value=0, max_value=4e9), st.floats(min_value=0, max_value=4e9))
def test_times_sort_as_text(a: float, b: float) -> None:
    if a <= b:
        assert rfc3339(a) <= rfc3339(b)
    assert len(rfc3339(a)) == len("2026-01-01T00:00:00.000000Z")


@given(st.text())
def test_no_text_reaches_the_log_that_could_move_a_cursor(text: str) -> None:
    kept = check(Event.SECRET_SET, Outcome.DONE, None, {"name": text})["name"]
    listed = check(Event.HANDBACK_FOUND, Outcome.DONE, "7f3k", {"found": [text]})["found"]
    assert isinstance(kept, str)
    assert isinstance(listed, list)
    assert kept.isprintable()
    assert all(item.isprintable() for item in listed)


@pytest.mark.parametrize("event", [event for event in Event if "target" in SHAPES[event].fields])
def test_c16_targets_and_hosts_are_redacted_on_their_way_in(event: Event) -> None:
    hostile = {"target": "/x?sig=s3cr3t", "host": "user:s3cr3t@api.forge.example"}
    fields = check(event, Outcome.DONE, "7f3k", {**sample(event), **hostile})
    assert fields["target"] == f"/x?sig={GONE}"
    assert fields["host"] == f"{GONE}@api.forge.example"


def test_control_and_bidi_characters_are_shown_as_escapes() -> None:
    fields = check(Event.SECRET_SET, Outcome.DONE, None, {"name": "a\nb\x1b[31m\u202ec\u200bd\udc80é"})
    assert fields == {"name": r"a\nb\x1b[31m\u202ec\u200bd\udc80é"}


def test_long_texts_and_lists_are_cut_and_say_so() -> None:
    text = check(Event.SECRET_SET, Outcome.DONE, None, {"name": "x" * 5000})["name"]
    assert isinstance(text, str)
    assert len(text) <= LIMITS.audit_text_chars_max
    assert text.endswith("x...[+3988]")
    found = check(Event.HANDBACK_FOUND, Outcome.DONE, "7f3k", {"found": ["x"] * 250})["found"]
    assert isinstance(found, list)
    assert len(found) == LIMITS.audit_list_max + 1
    assert found[-1] == "...[+150]"


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (
            "/repos/acme/web/pulls?state=open&access_token=abc",
            f"/repos/acme/web/pulls?state={GONE}&access_token={GONE}",
        ),
        ("/x?flag&empty=&=v", f"/x?{GONE}&empty=&={GONE}"),
        ("/x#id_token=abc", f"/x#{GONE}"),
        ("http://user:pw@host.example:80/a", f"http://{GONE}@host.example:80/a"),
        ("http://host.example/a", "http://host.example/a"),
        ("//user:pw@host.example/a", f"//{GONE}/a"),
        ("user:pw@host.example:443", GONE),
        ("host.example:443", "host.example:443"),
        ("/a%3Ab%40c/d", f"/{GONE}/d"),
        ("/a%253Ab%2540c/d", f"/{GONE}/d"),
        ("/a;jsessionid=12;b/c", f"/a;jsessionid={GONE};{GONE}/c"),
        ("/api_key=12/c", f"/{GONE}/c"),
        ("/year=2026/c", "/year=2026/c"),
        ("/bot123456:AAAABBBB/send", f"/{GONE}/send"),
        ("/@scope%2fpkg", "/@scope%2fpkg"),
        ("/lodash/-/lodash-4.17.21.tgz", "/lodash/-/lodash-4.17.21.tgz"),
        ("/numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",) * 2,
        ("/users/550e8400-e29b-41d4-a716-446655440000/keys",) * 2,
        ("/acme/web.git/info/refs?service=git-upload-pack", f"/acme/web.git/info/refs?service={GONE}"),
        ("", ""),
        ("*", "*"),
        ("/\u202e\x00é", r"/\u202e\x00\xe9"),
    ],
)
def test_targets_are_kept_without_what_could_be_secret(target: str, kept: str) -> None:
    assert redact_target(target) == kept


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("api.forge.example", "api.forge.example"),
        ("api.forge.example:8443", "api.forge.example:8443"),
        ("user:pw@api.forge.example", f"{GONE}@api.forge.example"),
        ("api.forge.example:pw", f"api.forge.example:{GONE}"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("ev\u0456l\n", r"ev\u0456l\n"),
        ("h" * 400, "h" * 288 + "...[+112]"),
    ],
)
def test_hosts_are_kept_without_user_info(host: str, kept: str) -> None:
    assert redact_host(host) == kept


def _tokens(count: int) -> list[str]:
    """Tokens as services make them: from 16 to 48 random bytes, in the usual alphabets."""
    source = random.Random(20260101)
    letters = string.ascii_letters + string.digits
    found = []
    for _ in range(count):
        raw = source.randbytes(source.choice((16, 20, 24, 32, 48)))
        found += [
            raw.hex(),
            base64.b32encode(raw).decode().rstrip("="),
            "".join(source.choice(letters) for _ in range(len(raw) + 8)),
            base64.urlsafe_b64encode(raw).decode().rstrip("="),
        ]
    return found


def test_random_tokens_in_a_path_are_seen() -> None:
    tokens = _tokens(2000)
    missed = [token for token in tokens if token in redact_target(f"/hooks/{token}/x")]
    assert len(missed) <= len(tokens) * 0.002, missed[:5]


@pytest.mark.parametrize(
    "token",
    [
        "ghp_abcdefghijkl", "github_pat_11AAAAAAA_bbbb", "glpat-xxxxxxxx-yyy", "xoxb-aaaa-bbbb",
        "AKIAABCDEFGHIJKLMNOP", "eyJhbGciOi.eyJzdWIi.c2ln", "npm_abcdefghij", "hvs.CAESIJ-abc", "AIzaSyAbcdefgh",
        "ya29.a0Abcdefgh", "SG.abcd-efgh.ijkl",
    ],
)  # fmt: skip
def test_tokens_with_a_known_prefix_are_seen(token: str) -> None:
    assert looks_secret(token)
    assert looks_secret(f"x-{token}")


def test_what_people_call_things_is_kept() -> None:
    names = (
        "acme", "web", "InternationalizationServiceProvider", "kubernetes-sigs-2024-release-notes", "v1.2.3-rc4",
        "python3.11-slim-bookworm-20240101", "1234567890123456789", "README.md", "Release-Notes-2024-Final-v2",
    )  # fmt: skip
    assert [name for name in names if looks_secret(name)] == []


@given(st.text(max_size=300), st.text(max_size=40))
def test_redaction_is_printable_bounded_and_final(path: str, query: str) -> None:
    once = redact_target(f"/{path}?{query}")
    assert once.isascii()
    assert once.isprintable()
    assert len(once) <= LIMITS.audit_target_chars_max
    assert redact_target(once) == once


SAFE = st.text(alphabet=string.ascii_letters + string.digits + "-._~%+/:@", min_size=1, max_size=60)


@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,8}", fullmatch=True), SAFE), min_size=1, max_size=5))
def test_no_value_of_a_query_remains(pairs: list[tuple[str, str]]) -> None:
    kept = redact_target("/x?" + "&".join(f"{name}={value}" for name, value in pairs))
    assert kept == "/x?" + "&".join(f"{name}={GONE}" for name, _ in pairs)


@pytest.mark.parametrize(
    "hostile",
    ["key" * 20000, "/key" * 20000, ":" * 60000, "@" * 60000, "/a" * 30000, "%25" * 20000, "=" * 60000, ";" * 60000,
     "/x?" + "a&" * 30000, "/x?" + "a" * 60000, "/x?" + ";" * 60000, "A1" * 30000],
)  # fmt: skip
def test_a_target_of_any_size_costs_little_and_stays_small(hostile: str) -> None:
    assert len(redact_target(hostile)) <= LIMITS.audit_target_chars_max


def test_a_long_path_is_cut_between_segments() -> None:
    token = "Zq7" + "aB3xY9kL2mN8pQ4r" * 2
    path = "/" + "a" * (LIMITS.audit_target_chars_max - 10) + "/" + token
    kept = redact_target(path)
    assert token[:5] not in kept
    assert kept.endswith("/...")
