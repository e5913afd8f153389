"""The issuer of OAuth tokens keeps the contract, before a server of Authlib's: see ``tests/servers/oauth.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from contract.clauses import IssuerContract, fails
from contract.desk import Desk, Run
from contract.oauth_subject import OauthSubject
from contract.subject import Refused
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret
from servers.ca import TestCa
from servers.oauth import LASTS_S, METHODS, TOKEN_TYPE, OauthServer
from servers.standin import ADDRESS

TOKEN, REVOKE, INTROSPECT = "/oauth/token", "/oauth/revoke", "/oauth/introspect"


@pytest.fixture(scope="module")
def subject() -> Iterator[OauthSubject]:
    server = OauthServer()
    yield OauthSubject(server)
    server.close()


@pytest.fixture(autouse=True)
def fresh(subject: OauthSubject) -> Iterator[None]:
    """A server that does what it should, and no token that a test before has lost."""
    yield
    subject.server.altered, subject.server.client.methods = {}, METHODS
    subject.server.deaf = subject.server.rotates = False
    subject.server.tokens.clear()
    subject.server.asked.clear()


class TestOauth2(IssuerContract):
    """Its own tests follow the clauses."""

    revocability = Revocability.NEXT_USE
    named = False
    chosen = False
    outlasts_s = LASTS_S

    def test_a_server_with_another_certificate_gets_no_secret(
        self, subject: OauthSubject, desk: Desk, run: Run, tmp_path: Path
    ) -> None:
        stranger = {**subject.parameters(), "ca": str(TestCa(tmp_path).path)}
        assert "certificate" in fails(run, subject.issuer(stranger, subject.secret).check(), subject.secret).message
        misnamed = subject.without(token_url=str(subject.parameters()["token_url"]).replace(ADDRESS, "localhost"))
        assert "certificate" in fails(run, subject.issuer(misnamed, subject.secret).check(), subject.secret).message
        assert subject.server.asked == []
        run(desk.issuer.check())
        assert [path for path, _, _ in subject.server.asked] == [TOKEN, INTROSPECT, REVOKE, INTROSPECT]

    @pytest.mark.parametrize("key", ["token_url", "client_id", "scopes"])
    def test_what_is_needed_has_to_be_there(self, subject: OauthSubject, key: str) -> None:
        with pytest.raises(ConfigError, match=f"the key {key} is missing"):
            subject.issuer(subject.without(key), subject.secret)

    @pytest.mark.parametrize(("auth", "method"), [("basic", METHODS[0]), ("post", METHODS[1])])
    def test_the_client_shows_itself_as_the_server_takes_it(
        self, subject: OauthSubject, run: Run, auth: str, method: str
    ) -> None:
        subject.server.client.methods = (method,)
        run(subject.issuer(subject.without(auth=auth), subject.secret).check())
        [other] = {"basic", "post"} - {auth}
        error = fails(run, subject.issuer(subject.without(auth=other), subject.secret).check(), subject.secret)
        assert "invalid_client" in error.message

    @pytest.mark.parametrize(
        ("altered", "said"),
        [
            ({"scope": "orders:read orders:write users:admin"}, "more than asked: users:admin"),
            ({"scope": "users:admin"}, "more than asked: users:admin"),
            ({"expires_in": 10 * LASTS_S}, "s more than asked"),
            ({"expires_in": None}, "how long"),
            ({"expires_in": "soon"}, "no number"),
            ({"expires_in": True}, "no number"),
            ({"expires_in": -1}, "no number"),
            ({"token_type": "mac"}, "not of the type Bearer"),
            ({"token_type": "N_A"}, "not of the type Bearer"),
            ({"token_type": None}, "not of the type Bearer"),
            ({"scope": ["orders:read"]}, "scope that is no text"),
            ({"refresh_token": "made-up"}, "new refresh token"),
        ],
    )
    def test_what_an_answer_gives_unasked_is_taken_back(
        self, subject: OauthSubject, desk: Desk, run: Run, altered: dict[str, Any], said: str
    ) -> None:
        subject.server.altered = {TOKEN: altered}
        assert said in fails(run, desk.issuer.issue(desk.order()), subject.secret).message
        assert len(subject.server.tokens) == 1
        assert subject.accounts() == set()

    @pytest.mark.parametrize(
        ("altered", "said"),
        [
            ({"scope": "orders:read orders:write users:admin"}, "more than asked: users:admin"),
            ({"exp": 32_503_680_000}, "s more than asked"),
            ({"exp": "never"}, "no number"),
        ],
    )
    def test_what_introspection_tells_is_compared_too(
        self, subject: OauthSubject, desk: Desk, run: Run, altered: dict[str, Any], said: str
    ) -> None:
        subject.server.altered = {TOKEN: {"scope": None}, INTROSPECT: altered}
        assert said in fails(run, desk.issuer.issue(desk.order()), subject.secret).message
        assert len(subject.server.tokens) == 1
        assert subject.accounts() == set()

    def test_a_token_lasts_no_longer_than_the_operator_was_told(
        self, subject: OauthSubject, desk: Desk, run: Run
    ) -> None:
        order = desk.order()
        for seconds in (LASTS_S // 2, LASTS_S):
            issuer = CheckedIssuer(subject.issuer(subject.without(token_lasts_s=seconds), subject.secret))
            if seconds < LASTS_S:
                assert "s more than asked" in fails(run, issuer.issue(order), subject.secret).message
                assert subject.accounts() == set()
            else:
                subject.attempt(run(issuer.issue(order)).material, subject.within[0])

    def test_a_scope_that_is_left_out_is_as_asked(self, subject: OauthSubject, desk: Desk) -> None:
        subject.server.altered = {TOKEN: {"scope": None}, INTROSPECT: {"scope": None, "exp": None}}
        assert desk.issue(desk.order(scope=subject.less)).scope == subject.less

    def test_numbers_may_come_as_text(self, subject: OauthSubject, desk: Desk) -> None:
        subject.server.altered = {TOKEN: {"expires_in": str(LASTS_S), "token_type": "bearer"}}
        subject.attempt(desk.issue(desk.order()).material, subject.within[0])

    def test_less_than_asked_is_told(self, subject: OauthSubject, desk: Desk, run: Run) -> None:
        """The client lacks one of them at the server."""
        raw = subject.issuer(subject.without(scopes=["orders:read", "users:admin"]), subject.secret)
        issued = run(raw.issue(desk.order(scope=raw.scope)))
        assert issued.scope == {"orders:read"}

    def test_an_unknown_scope_is_refused_by_its_name_in_the_rfc(self, subject: OauthSubject, run: Run) -> None:
        raw = subject.issuer(subject.without(scopes=["no:such"]), subject.secret)
        assert "invalid_scope" in fails(run, raw.check(), subject.secret).message

    def test_what_is_asked_about_is_asked_and_read_back(self, subject: OauthSubject, desk: Desk, run: Run) -> None:
        about = {"audience": "orders", "resource": "https://orders.example"}
        raw = subject.issuer(subject.without(**about), subject.secret)
        run(raw.issue(desk.order()))
        assert subject.server.tokens[-1].about == about
        for audience in ("plans", ["orders", "plans"], {"of": "orders"}, [["orders"]], 5):
            subject.server.altered = {INTROSPECT: {"aud": audience}}
            assert "another audience" in fails(run, raw.issue(desk.order()), subject.secret).message
            assert subject.server.tokens[-1].revoked
        nothing: object
        for nothing in (None, []):
            subject.server.altered = {INTROSPECT: {"aud": nothing}}
            assert "does not say for whom" in fails(run, raw.issue(desk.order()), subject.secret).message
            assert subject.server.tokens[-1].revoked

    def test_who_asks_for_nobody_in_particular_is_told_of_nobody(
        self, subject: OauthSubject, desk: Desk, run: Run
    ) -> None:
        """A server that says all the same for whom it is has not been asked otherwise."""
        for audience in (None, "plans"):
            subject.server.altered = {INTROSPECT: {"aud": audience}}
            subject.attempt(desk.issue(desk.order()).material, subject.within[0])

    @pytest.mark.parametrize(
        ("altered", "said"),
        [
            ({TOKEN: {"scope": "orders:read orders:write users:admin"}}, "more than asked: users:admin"),
            ({INTROSPECT: {"scope": "orders:read orders:write users:admin"}}, "more than asked: users:admin"),
            ({TOKEN: {"expires_in": LASTS_S + 60}}, "expected 3600 at most"),
            ({INTROSPECT: {"exp": 32_503_680_000}}, "expected 3600 at most"),
            ({TOKEN: {"expires_in": None}}, "how long"),
            ({TOKEN: {"token_type": "mac"}}, "not of the type Bearer"),
            ({INTROSPECT: {"aud": None}}, "does not say for whom"),
        ],
    )
    def test_a_check_compares_what_it_gets_as_an_order_does_and_leaves_nothing(
        self, subject: OauthSubject, run: Run, altered: dict[str, Mapping[str, Any]], said: str
    ) -> None:
        raw = subject.issuer(subject.without(audience="orders"), subject.secret)
        run(raw.check())
        subject.server.altered = altered
        assert said in fails(run, raw.check(), subject.secret).message
        assert len(subject.server.tokens) == 2
        assert subject.accounts() == set()

    def test_a_check_regards_how_long_the_operator_says_that_tokens_last(self, subject: OauthSubject, run: Run) -> None:
        short = subject.issuer(subject.without(token_lasts_s=LASTS_S // 2), subject.secret)
        error = fails(run, short.check(), subject.secret)
        assert (f"last {LASTS_S} s" in error.message, "token_lasts_s" in error.hint) == (True, True)
        ends_by_itself = subject.issuer(subject.without("revoke_url", token_lasts_s=LASTS_S // 2), subject.secret)
        run(ends_by_itself.check())  # there an order's own time is what counts, and no order is here

    def test_revoking_is_believed_only_when_read_back(self, subject: OauthSubject, desk: Desk, run: Run) -> None:
        order = desk.order()
        issued = desk.issue(order)
        subject.server.deaf = True
        assert "still active" in fails(run, desk.issuer.revoke(order.name, issued.kept), subject.secret).message
        subject.server.deaf = False
        assert desk.revoke(order.name)

    def test_an_introspection_that_knows_nothing_proves_nothing(
        self, subject: OauthSubject, desk: Desk, run: Run
    ) -> None:
        subject.server.altered = {INTROSPECT: {"active": False}}
        assert "not active" in fails(run, desk.issuer.issue(desk.order()), subject.secret).message
        assert "not active" in fails(run, desk.issuer.check(), subject.secret).message
        assert subject.accounts() == set()

    def test_without_introspection_the_answer_to_the_revocation_has_to_do(
        self, subject: OauthSubject, desk: Desk, run: Run
    ) -> None:
        raw = subject.issuer(subject.without("introspect_url"), subject.secret)
        assert raw.revocability is Revocability.NEXT_USE
        order = desk.order()
        issued = run(raw.issue(order))
        assert run(raw.revoke(order.name, issued.kept)) is True
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.within[0])
        assert INTROSPECT not in [path for path, _, _ in subject.server.asked]

    def test_without_revocation_nothing_is_called_revoked(self, subject: OauthSubject, desk: Desk, run: Run) -> None:
        raw = subject.issuer(subject.without("revoke_url"), subject.secret)
        assert raw.revocability is Revocability.TTL_ONLY
        order = desk.order()
        assert "s more than asked" in fails(run, CheckedIssuer(raw).issue(order), subject.secret).message
        long = desk.order(expires=order.expires + LASTS_S)
        issued = run(CheckedIssuer(raw).issue(long))
        assert run(raw.revoke(long.name, issued.kept)) is False
        subject.attempt(issued.material, subject.within[0])
        run(raw.check())

    def test_one_that_a_crash_lost_is_not_called_gone(self, subject: OauthSubject, desk: Desk, run: Run) -> None:
        order = desk.order()
        issued = desk.issue(order)
        assert run(desk.issuer.revoke(order.name)) is False
        subject.attempt(issued.material, subject.within[0])
        assert run(desk.issuer.revoke(order.name, issued.kept)) is True

    def test_a_refresh_token_gives_access_tokens_and_stays(self, subject: OauthSubject, desk: Desk, run: Run) -> None:
        secret = subject.with_secret(refresh_token=subject.server.refresh_token())
        raw = subject.issuer(subject.without(grant="refresh_token"), secret)
        for _ in range(2):
            issued = run(raw.issue(desk.order(scope=subject.less)))
            assert issued.scope == subject.less
            subject.attempt(issued.material, "GET /api/orders")
            with pytest.raises(Refused):
                subject.attempt(issued.material, subject.beyond_less)
        wrong = subject.issuer(
            subject.without(grant="refresh_token"), subject.with_secret(refresh_token="used-up-long-ago")
        )
        assert "invalid_grant" in fails(run, wrong.check(), subject.secret).message

    def test_a_refresh_token_that_comes_back_as_it_was_is_no_rotation(
        self, subject: OauthSubject, desk: Desk, run: Run
    ) -> None:
        ours = subject.server.refresh_token()
        raw = subject.issuer(subject.without(grant="refresh_token"), subject.with_secret(refresh_token=ours))
        subject.server.altered = {TOKEN: {"refresh_token": ours}}
        subject.attempt(run(raw.issue(desk.order())).material, subject.within[0])

    def test_a_refresh_token_that_rotates_is_refused_and_both_are_revoked(
        self, subject: OauthSubject, desk: Desk, run: Run
    ) -> None:
        secret = subject.with_secret(refresh_token=subject.server.refresh_token())
        raw = subject.issuer(subject.without(grant="refresh_token"), secret)
        subject.server.rotates = True
        error = fails(run, raw.issue(desk.order()), subject.secret)
        assert "new refresh token" in error.message
        assert "no rotation" in error.hint
        assert subject.accounts() == set()
        hints = [form["token_type_hint"] for path, form, _ in subject.server.asked if path == REVOKE]
        assert hints == ["refresh_token", "access_token"]

    def test_a_token_is_exchanged_for_a_narrower_one(self, subject: OauthSubject, desk: Desk, run: Run) -> None:
        parameters = subject.without(grant="token_exchange", audience="orders")
        raw = subject.issuer(parameters, subject.with_secret(subject_token=subject.server.subject_token))
        issued = run(raw.issue(desk.order(scope=subject.less)))
        assert issued.scope == subject.less
        subject.attempt(issued.material, "GET /api/orders")
        with pytest.raises(Refused):
            subject.attempt(issued.material, subject.beyond_less)
        for wrong in (
            subject.issuer(parameters, subject.with_secret(subject_token="of-nobody")),
            subject.issuer(
                {**parameters, "subject_type": "jwt"}, subject.with_secret(subject_token=subject.server.subject_token)
            ),
        ):
            assert "invalid_grant" in fails(run, wrong.check(), subject.secret).message

    @pytest.mark.parametrize("said", [None, "", "access_token", f"{TOKEN_TYPE}:refresh_token", f"{TOKEN_TYPE}:jwt", 5])
    def test_what_is_not_said_to_be_an_access_token_is_taken_back(
        self, subject: OauthSubject, desk: Desk, run: Run, said: object
    ) -> None:
        secret = subject.with_secret(subject_token=subject.server.subject_token)
        raw = subject.issuer(subject.without(grant="token_exchange"), secret)
        subject.server.altered = {TOKEN: {"issued_token_type": said}}
        for call in (raw.issue(desk.order()), raw.check()):
            assert "access token" in fails(run, call, secret).message
        assert len(subject.server.tokens) == 2
        assert subject.accounts() == set()

    def test_the_secret_goes_nowhere_but_to_the_server(self, subject: OauthSubject, desk: Desk) -> None:
        order = desk.order()
        desk.issue(order)
        desk.revoke(order.name)
        secret = subject.secret.reveal().decode()
        for path, form, headers in subject.server.asked:
            assert secret not in f"{path} {form} {headers}"
            assert headers["Authorization"].startswith("Basic ")

    @pytest.mark.parametrize(
        ("grant", "secret"),
        [
            ("client_credentials", b""),
            ("client_credentials", b"\xff"),
            ("client_credentials", b"a\nb"),
            ("refresh_token", b"just-the-secret"),
            ("refresh_token", b'{"client_secret": "a"}'),
            ("refresh_token", b'{"client_secret": "a", "refresh_token": 5}'),
            ("refresh_token", b'{"client_secret": "a", "refresh_token": ""}'),
            ("refresh_token", b'{"client_secret": "a", "refresh_token": "b", "more": "c"}'),
            ("refresh_token", b"[" * 100_000),
            ("token_exchange", b'{"client_secret": "a", "refresh_token": "b"}'),
        ],
    )
    def test_a_secret_that_is_none_is_refused(self, subject: OauthSubject, run: Run, grant: str, secret: bytes) -> None:
        issuer = subject.issuer(subject.without(grant=grant), Secret(secret))
        assert "refuse" in fails(run, issuer.check()).message
        assert subject.server.asked == []
