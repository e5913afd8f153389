"""Route tables: which request passes, to which cluster, and what is said to the others. Each denial has its twin."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.model import DEFAULT_METHODS, GitRule, InjectAws, Rule
from leasehold.core.paths import matches
from leasehold.node.egress.model import State, upstreams
from leasehold.node.egress.snapshot import OVERRIDE_HEADERS, routes
from leasehold.node.egress.xds import ROUTE
from unit.node.egress.parts import DOCS, FORGE, TASK, Answer, ask, one

_WIDE = Rule(host=FORGE)


def _table(
    *rules: tuple[str | None, Rule], state: State = State.LIVE, name: str = f"{TASK}/{FORGE}:443"
) -> RouteConfiguration:
    found = upstreams(TASK, rules)
    states = {upstream.name: state for upstream in found}
    return routes(TASK, {443: "https", 80: "http"}, found, states)[(ROUTE, name)]


def _forge(*, state: State = State.LIVE, **rule: Any) -> RouteConfiguration:
    return _table(("forge", Rule(**({"host": FORGE} | rule))), state=state)


def _routes(table: RouteConfiguration) -> list[Route]:
    return [route for virtual_host in table.virtual_hosts for route in virtual_host.routes]


def test_a_rule_lets_its_methods_and_paths_pass_and_nothing_else() -> None:
    table = _forge(methods=("GET", "HEAD"), paths=("/repos/acme/web/**",))
    assert ask(table, "/repos/acme/web/pulls?page=2").cluster == f"{TASK}/0/forge/{FORGE}:443"
    assert ask(table, "/repos/acme/web", "HEAD").code == ""
    for target, method in (
        ("/repos/acme/web/pulls", "POST"),
        ("/repos/acme/web/pulls", "get"),
        ("/repos/acme/website", "GET"),
        ("/user/keys?path=/repos/acme/web", "GET"),
        ("/", "GET"),
    ):
        assert (ask(table, target, method).status, ask(table, target, method).code) == (403, "rule-not-allowed")


def test_the_last_route_of_every_host_denies_whatever_is_left() -> None:
    for table in (_forge(), _forge(state=State.PENDING), _forge(state=State.CLOSED)):
        for virtual_host in table.virtual_hosts:
            last = virtual_host.routes[-1]
            assert Answer(last).code in ("rule-not-allowed", "misdirected-request")
            assert last.match.prefix == "/"
            assert not last.match.headers


def test_without_methods_only_the_usual_ones_pass() -> None:
    table = _forge()
    assert [ask(table, method=method).code for method in DEFAULT_METHODS] == [""] * len(DEFAULT_METHODS)
    for method in ("TRACE", "CONNECT", "PROPFIND", "", "GETX"):
        assert ask(table, method=method).code == "rule-not-allowed"


def test_a_host_is_one_name_with_or_without_its_port_and_others_are_misdirected() -> None:
    table = _forge()
    assert [ask(table, host=host).code for host in (FORGE, f"{FORGE}:443")] == ["", ""]
    for host in (DOCS, f"{FORGE}:8443", f"{FORGE}.evil.test", f"x{FORGE}", "evil.test", ""):
        answer = ask(table, host=host)
        assert (answer.status, answer.code, answer.cluster) == (421, "misdirected-request", "")


def test_what_is_allowed_for_one_name_is_not_in_the_table_of_another() -> None:
    rules = (("forge", _WIDE), (None, Rule(host=DOCS)))
    assert ask(_table(*rules), host=DOCS).code == "misdirected-request"
    assert ask(_table(*rules, name=f"{TASK}/{DOCS}:443"), host=DOCS).code == ""
    assert ask(_table(*rules, name=f"{TASK}/{DOCS}:443"), host=FORGE).code == "misdirected-request"


def test_a_credential_is_not_offered_without_tls() -> None:
    plain = _table(("forge", _WIDE), (None, Rule(host=DOCS, scheme="http", port=80)), name=f"{TASK}/:80")
    assert ask(plain, host=DOCS).cluster == f"{TASK}/1/-/{DOCS}:80"
    for host in (FORGE, f"{FORGE}:443", "203.0.113.7", f"{DOCS}:443"):
        assert (ask(plain, host=host).status, ask(plain, host=host).code) == (403, "host-not-allowed")


def test_the_upstream_gets_the_host_that_was_checked() -> None:
    assert ask(_forge()).route.route.host_rewrite_literal == FORGE
    found = [one(port=8443)]
    table = routes(TASK, {8443: "https"}, found, {found[0].name: State.LIVE})[(ROUTE, f"{TASK}/{FORGE}:8443")]
    assert ask(table, host=f"{FORGE}:8443").route.route.host_rewrite_literal == f"{FORGE}:8443"


@pytest.mark.parametrize("header", OVERRIDE_HEADERS)
def test_a_header_that_changes_method_or_path_is_refused_before_any_rule(header: str) -> None:
    table = _forge()
    assert ask(table, headers=["x-other"]).code == ""
    answer = ask(table, headers=[header, "x-other"])
    assert (answer.status, answer.code) == (403, "method-override")


def test_a_first_use_asks_for_its_own_upstream_and_a_live_one_does_not_ask() -> None:
    assert ask(_forge(state=State.PENDING)).asked == f"{TASK}/0/forge/{FORGE}:443"
    assert ask(_forge(state=State.LIVE)).asked == ""
    assert ask(_forge(state=State.PENDING)).cluster == ask(_forge(state=State.LIVE)).cluster


def test_a_host_without_a_credential_is_asked_for_as_well() -> None:
    table = _table((None, Rule(host=DOCS)), state=State.PENDING, name=f"{TASK}/{DOCS}:443")
    assert ask(table, host=DOCS).asked == f"{TASK}/0/-/{DOCS}:443"


def test_a_closed_upstream_denies_exactly_what_it_let_pass() -> None:
    rule = {"methods": ("GET",), "paths": ("/a/**",)}
    answer = ask(_forge(state=State.CLOSED, **rule), "/a/b")
    assert (answer.status, answer.code, answer.cluster) == (403, "access-ended", "")
    assert answer.route.name.startswith("closed/")
    assert ask(_forge(state=State.CLOSED, **rule), "/b").code == "rule-not-allowed"
    assert ask(_forge(state=State.LIVE, **rule), "/a/b").code == ""


def test_the_end_of_one_credential_leaves_the_other_at_the_same_host() -> None:
    found = upstreams(TASK, [("forge", Rule(host=FORGE, paths=("/a",))), ("npm", Rule(host=FORGE, paths=("/b",)))])
    states = {found[0].name: State.CLOSED, found[1].name: State.LIVE}
    (table,) = routes(TASK, {443: "https"}, found, states).values()
    assert ask(table, "/a").code == "access-ended"
    assert ask(table, "/b").cluster == found[1].name


def test_two_credentials_at_one_host_go_by_their_own_clusters_and_the_first_rule_wins() -> None:
    read = Rule(host=FORGE, methods=("GET",), paths=("/repos/**",))
    write = Rule(host=FORGE, methods=("GET", "POST"), paths=("/repos/acme/web/**",))
    table = _table(("reader", read), ("writer", write))
    assert ask(table, "/repos/acme/web/pulls").cluster == f"{TASK}/0/reader/{FORGE}:443"
    assert ask(table, "/repos/acme/web/pulls", "POST").cluster == f"{TASK}/1/writer/{FORGE}:443"
    assert ask(table, "/repos/acme/other", "POST").code == "rule-not-allowed"


def test_no_request_is_sent_twice_and_none_goes_to_a_second_place() -> None:
    for table in (_forge(), _forge(state=State.PENDING), _forge(websocket=True)):
        for virtual_host in table.virtual_hosts:
            assert not virtual_host.HasField("retry_policy")
            assert not virtual_host.HasField("hedge_policy")
            assert not virtual_host.request_mirror_policies
        for route in _routes(table):
            for field in ("retry_policy", "hedge_policy", "internal_redirect_policy", "weighted_clusters"):
                assert not route.route.HasField(field)
            assert not route.route.request_mirror_policies
            assert route.route.WhichOneof("cluster_specifier") in ("cluster", None)


def test_a_stream_may_last_and_a_cluster_that_is_not_there_is_no_other_one() -> None:
    action = ask(_forge()).route.route
    assert action.timeout.seconds == 0
    assert action.HasField("timeout")
    assert action.cluster_not_found_response_code == action.SERVICE_UNAVAILABLE
    assert not _forge().validate_clusters.value


def test_cookies_of_a_credentialed_endpoint_do_not_come_back() -> None:
    credentialed = ask(_forge()).route
    assert list(credentialed.response_headers_to_remove) == ["set-cookie", "set-cookie2"]
    open_host = ask(_table((None, Rule(host=DOCS)), name=f"{TASK}/{DOCS}:443"), host=DOCS).route
    assert list(open_host.response_headers_to_remove) == []


def test_every_denial_is_json_that_names_its_code_and_asks_nobody() -> None:
    tables = [_forge(), _forge(state=State.CLOSED), _table((None, Rule(host=DOCS)), name=f"{TASK}/:80")]
    denials = [Answer(route) for table in tables for route in _routes(table) if not route.route.cluster]
    assert {denial.code for denial in denials} == {
        "access-ended",
        "host-not-allowed",
        "method-override",
        "misdirected-request",
        "rule-not-allowed",
    }
    for denial in denials:
        assert denial.error.keys() == {"code", "message", "hint"}
        assert denial.headers == {
            "content-type": "application/json",
            "x-leasehold-decision": f"deny; code={denial.code}",
        }
        assert denial.asked == ""


def test_a_denial_says_what_is_allowed() -> None:
    table = _forge(methods=("GET",), paths=("/repos/**",))
    error = ask(table, "/user").error
    assert FORGE in error["message"]
    assert f"GET {FORGE} /repos/**" in error["hint"]


def test_a_websocket_needs_a_rule_of_its_own_and_is_a_get() -> None:
    table = _forge(websocket=True, paths=("/socket",))
    (upgrade,) = ask(table, "/socket").route.route.upgrade_configs
    assert (upgrade.upgrade_type, upgrade.enabled.value) == ("websocket", True)
    assert ask(table, "/socket", "POST").code == "rule-not-allowed"
    assert not ask(_forge(paths=("/socket",)), "/socket").route.route.upgrade_configs


class TestGit:
    """Smart HTTP on one repository: what fetches, what pushes, and nothing beside it."""

    def _asked(self, access: str, target: str, method: str = "GET", repository: str = "acme/web") -> str:
        table = _forge(git=GitRule(repository=repository, access=access))
        return ask(table, target, method).code

    @pytest.mark.parametrize("suffix", ["", ".git"])
    @pytest.mark.parametrize("repository", ["acme/web", "acme/web.git"])
    def test_who_may_read_fetches_and_does_not_push(self, repository: str, suffix: str) -> None:
        where = f"/acme/web{suffix}"
        for target, method in (
            (f"{where}/info/refs?service=git-upload-pack", "GET"),
            (f"{where}/git-upload-pack", "POST"),
        ):
            assert self._asked("read", target, method, repository) == ""
        for target, method in (
            (f"{where}/info/refs?service=git-receive-pack", "GET"),
            (f"{where}/git-receive-pack", "POST"),
        ):
            assert self._asked("read", target, method, repository) == "rule-not-allowed"
            assert self._asked("write", target, method, repository) == ""

    @pytest.mark.parametrize(
        ("target", "method"),
        [
            ("/acme/web/info/refs", "GET"),
            ("/acme/web/info/refs?service=git-upload-pack&service=git-receive-pack", "GET"),
            ("/acme/web/info/refs?service=git-upload-archive", "GET"),
            ("/acme/web/info/refs?service=git-upload-pack", "POST"),
            ("/acme/web/git-upload-pack?x=1", "POST"),
            ("/acme/web/git-upload-pack", "GET"),
            ("/acme/web2/git-upload-pack", "POST"),
            ("/acme/web.git.git/git-upload-pack", "POST"),
            ("/other/acme/web/git-upload-pack", "POST"),
            ("/acme/web/settings", "GET"),
            ("/acme/web", "GET"),
        ],
    )
    def test_nothing_beside_the_protocol_of_this_repository(self, target: str, method: str) -> None:
        assert self._asked("write", target, method) == "rule-not-allowed"

    def test_a_dot_in_its_name_is_a_dot(self) -> None:
        target = "/acme/web{}js/git-upload-pack"
        assert self._asked("read", target.format("."), "POST", "acme/web.js") == ""
        assert self._asked("read", target.format("x"), "POST", "acme/web.js") == "rule-not-allowed"


_PATTERNS = ["/", "/a", "/a/*", "/a/**", "/**", "/*/b"]
_METHODS = ["GET", "POST", "DELETE", "TRACE"]
_RULES = st.tuples(
    st.sampled_from([None, "forge", "npm"]),
    st.builds(
        Rule,
        host=st.just(FORGE),
        methods=st.lists(st.sampled_from(_METHODS[:3]), max_size=2, unique=True).map(tuple),
        paths=st.lists(st.sampled_from(_PATTERNS), max_size=2, unique=True).map(tuple),
    ),
)


def _lets_pass(rule: Rule, method: str, path: str) -> bool:
    paths = rule.paths or ("/**",)
    return method in (rule.methods or DEFAULT_METHODS) and any(matches(pattern, path) for pattern in paths)


@given(
    st.lists(_RULES, min_size=1, max_size=4),
    st.sampled_from(_METHODS),
    st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/c/b", "/a/"]),
)
def test_what_passes_is_what_some_rule_allows_by_that_rules_credential(
    rules: list[tuple[str | None, Rule]], method: str, path: str
) -> None:
    found = upstreams(TASK, rules)
    (table,) = routes(TASK, {443: "https"}, found, dict.fromkeys((u.name for u in found), State.LIVE)).values()
    answer = ask(table, path, method)
    allowing = [upstream.name for upstream in found for rule in upstream.rules if _lets_pass(rule, method, path)]
    assert answer.cluster == (allowing[0] if allowing else "")
    assert answer.code == ("" if allowing else "rule-not-allowed")


_S3 = Rule(host="builds.s3.example", inject=InjectAws(service="s3", region="eu-central-1"))
_METADATA = ("169.254.169.254", "169.254.170.2")


def test_metadata_services_are_answered_for_tasks_with_a_credential_of_aws_and_dialled_for_none() -> None:
    plain = Rule(host=DOCS, scheme="http", port=80)
    without = _table(("forge", _WIDE), (None, plain), name=f"{TASK}/:80")
    assert not {*_METADATA}.intersection(*(virtual_host.domains for virtual_host in without.virtual_hosts))
    table = _table(("builds", _S3), (None, plain), name=f"{TASK}/:80")
    answering = [host for host in table.virtual_hosts if host.name in _METADATA]
    assert [list(host.domains) for host in answering] == [[name, f"{name}:80"] for name in _METADATA]
    for route in (route for host in answering for route in host.routes):
        assert route.WhichOneof("action") == "direct_response"
    assert [host.routes[-1].direct_response.status for host in answering] == [401, 404]
    assert {*table.virtual_hosts[-1].domains} == {"*"}


def test_metadata_services_are_on_no_other_port() -> None:
    for state in (State.PENDING, State.LIVE, State.CLOSED):
        found = upstreams(TASK, [("builds", _S3), (None, Rule(host=DOCS, scheme="http", port=8080))])
        tables = routes(TASK, {443: "https", 8080: "http"}, found, dict.fromkeys((u.name for u in found), state))
        assert not [host for table in tables.values() for host in table.virtual_hosts if host.name in _METADATA]
