"""The weakenings of ``make mutate``: what is weakened, how, and which tests have to notice."""

from __future__ import annotations

from dataclasses import dataclass

_A = "tests/redteam/test_a_destination.py::"
_B = "tests/redteam/test_b_protocol.py::"
_C = "tests/redteam/test_c_injection.py::"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """``old`` stands exactly once in ``file`` (below src/leasehold) and becomes ``new``."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="no scrubbing",
        file="node/egress/clusters.py",
        old="*upstream_filters(upstream.inject, secret_name(upstream), _ads()),",
        new="*upstream_filters(upstream.inject, secret_name(upstream), _ads())[:2],",
        tests=(_C + "test_c11_no_reflection_brings_it_back",),
    ),
    Mutation(
        name="own headers kept",
        file="node/egress/scrub.py",
        old='        hcm_pb2.HttpFilter(name="leasehold.carriers", typed_config=_pack(_carriers(header))),\n',
        new="",
        tests=(_C + "test_c1_the_agents_own_credentials_are_stripped_from_every_carrier",),
    ),
    Mutation(
        name="path not canonicalised",
        file="node/egress/snapshot.py",
        old='normalize_path={"value": True},',
        new='normalize_path={"value": False},',
        tests=(_B + "test_b4_what_is_checked_is_what_is_forwarded", _B + "test_b4_paths_that_servers_read_differently"),
    ),
    Mutation(
        name="paths unpoliced",
        file="node/egress/snapshot.py",
        old="return [_match(methods, path=to_regex(pattern)) for pattern in rule.paths]",
        new="return [_match(methods)]",
        tests=(_B + "test_b4_paths_that_servers_read_differently",),
    ),
    Mutation(
        name="encoded separators in wildcards",
        file="core/paths.py",
        old="(?:[^/%\\\\]|{_ENCODED})*",
        new="(?:[^/])*",
        tests=("tests/unit/core/test_paths.py",),
    ),
    Mutation(
        name="plain HTTP unpoliced",
        file="node/egress/snapshot.py",
        old='found[(ROUTE, name)] = _table(name, [*virtual_hosts, _unknown_host("host-not-allowed", 403)])',
        new="virtual_hosts = [_virtual_host(u.destination, [u], states) for u in upstreams][:1]\n"
        '            virtual_hosts[0].domains[:] = ["*"]\n'
        "            found[(ROUTE, name)] = _table(name, virtual_hosts)",
        tests=(_A + "test_a1_plain_http_to_the_attackers_address_with_a_credentialed_host",),
    ),
    Mutation(
        name="every route table has every host",
        file="node/egress/snapshot.py",
        old='found[(ROUTE, name)] = _table(name, [virtual_host, _unknown_host("misdirected-request", 421)])',
        new='found[(ROUTE, name)] = _table(name, [*virtual_hosts, _unknown_host("misdirected-request", 421)])',
        tests=(_A + "test_a4_fronting_with_an_allowed_name",),
    ),
    Mutation(
        name="method override let through",
        file="node/egress/snapshot.py",
        old="OVERRIDE_HEADERS = (",
        new="OVERRIDE_HEADERS: tuple[str, ...] = ()\n_UNUSED = (",
        tests=(_B + "test_b18_headers_that_change_the_method_or_path",),
    ),
    Mutation(
        name="upgrades everywhere",
        file="node/egress/snapshot.py",
        old='upgrade_type="websocket", enabled={"value": False}',
        new='upgrade_type="websocket", enabled={"value": True}',
        tests=(_B + "test_b15_an_upgrade_needs_a_rule_of_its_own",),
    ),
    Mutation(
        name="any method",
        file="node/egress/snapshot.py",
        old='headers = [_regex_header(":method", "|".join(methods))]',
        new='headers = [_regex_header(":method", ".*")]',
        tests=(_B + "test_b20_methods_that_no_rule_names",),
    ),
    Mutation(
        name="underscores accepted",
        file="node/egress/snapshot.py",
        old="headers_with_underscores_action=protocol_pb2.HttpProtocolOptions.REJECT_REQUEST,",
        new="headers_with_underscores_action=protocol_pb2.HttpProtocolOptions.ALLOW,",
        tests=(_B + "test_b6_headers_with_underscores_are_refused",),
    ),
    Mutation(
        name="one cluster for all credentials",
        file="node/egress/model.py",
        old="groups.setdefault((credential, destination, rule.inject, rule.websocket), []).append(rule)",
        new="groups.setdefault((rules[0][0], destination, rules[0][1].inject, rule.websocket), []).append(rule)",
        tests=("tests/integration/test_clients.py::test_a_host_without_a_credential_gets_none",),
    ),
    Mutation(
        name="a missing credential goes out bare",
        file="wiring/tasks.py",
        old="            answer = await self._leases.first_use(task, credential)",
        new="            try:\n                answer = await self._leases.first_use(task, credential)\n"
        '            except Exception:\n                return Released(addresses=["127.0.0.1"], secret=None)',
        tests=(_C + "test_c2_a_credential_that_is_not_there_sends_nothing",),
    ),
    Mutation(
        name="git by prefix",
        file="node/egress/snapshot.py",
        old='services = ["git-upload-pack"] + (["git-receive-pack"] if rule.git.access == "write" else [])',
        new='services = ["git-upload-pack", "git-receive-pack"]',
        tests=("tests/integration/test_clients.py::test_denied_twin_is_refused",),
    ),
    Mutation(
        name="private addresses dialled",
        file="core/addresses.py",
        old="if str(ip) not in found and (is_public_address(str(ip)) or any(ip in network for network in networks)):",
        new="if str(ip) not in found:",
        tests=("tests/unit/core/test_names.py",),
    ),
)
