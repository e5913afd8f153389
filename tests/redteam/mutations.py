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
        old="filters = upstream_filters(inject, secret_name(upstream), ads())",
        new="filters = upstream_filters(inject, secret_name(upstream), ads())[:2]",
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
        tests=(
            "tests/unit/node/egress/test_model.py::test_no_cluster_is_ever_shared_between_credentials_places_or_ways",
        ),
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
        tests=("tests/integration/test_clients.py::test_denied_twin_is_refused[root-git push]",),
    ),
    Mutation(
        name="private addresses dialled",
        file="core/addresses.py",
        old="if str(ip) not in found and (is_public_address(str(ip)) or any(ip in network for network in networks)):",
        new="if str(ip) not in found:",
        tests=("tests/unit/core/test_names.py",),
    ),
    Mutation(
        name="upstream not verified by name",
        file="node/egress/shared.py",
        old="                match_typed_subject_alt_names=[",
        new="                match_typed_subject_alt_names=[][:0] and [",
        tests=(_A + "test_a_what_answers_at_the_address_has_to_prove_the_name",),
    ),
    Mutation(
        name="upstream not verified at all",
        file="node/egress/shared.py",
        old="            validation_context=common_pb2.CertificateValidationContext(",
        new="            validation_context=None and common_pb2.CertificateValidationContext(",
        tests=(_A + "test_a_what_answers_at_the_address_has_to_prove_the_name",),
    ),
    Mutation(
        name="minted sessions come back",
        file="node/egress/scrub.py",
        old="for name in MINTED_HEADERS]",
        new="for name in ()]",
        tests=("tests/integration/test_scrubber.py::test_sessions_that_the_credential_opened_stay_outside",),
    ),
    Mutation(
        name="compressed answers passed on",
        file="node/egress/scrubber.lua",
        old='  if encoding and lower(encoding) ~= "identity" and has_body(handle, status) then',
        new="  if false then",
        tests=("tests/integration/test_scrubber.py::test_a_compressed_answer_is_refused_and_not_passed_on",),
    ),
    Mutation(
        name="beginnings not held back",
        file="node/egress/scrubber.lua",
        old="  local stop = #text\n",
        new="  start = nil\n  local stop = #text\n",
        tests=("tests/integration/test_scrubber.py::test_no_split_of_the_body_lets_it_through",),
    ),
    Mutation(
        name="every name resolves",
        file="inside/dns.py",
        old="    address = names.get(name)\n",
        new='    address = names.get(name) or "198.18.255.254"\n',
        tests=("tests/unit/inside/test_dns.py",),
    ),
    Mutation(
        name="the explicit proxy takes any name",
        file="inside/proxy.py",
        old="    if host not in names or port not in ports:",
        new="    if port not in ports:",
        tests=("tests/unit/inside/test_proxy.py",),
    ),
    Mutation(
        name="absent path not masked",
        file="node/sandbox/protected.py",
        old="        masks.runs(found)\n",
        new="",
        tests=("tests/integration/test_workspace.py::test_what_runs_later_cannot_come_into_being_even_for_a_moment",),
    ),
    Mutation(
        name="secrets of the workspace not masked",
        file="node/sandbox/protected.py",
        old="        masks.secrets(found)\n",
        new="",
        tests=("tests/redteam/test_f_workspace.py::test_f_secrets_in_the_workspace_read_as_placeholders",),
    ),
    Mutation(
        name="environment passed through",
        file="node/sandbox/environment.py",
        old="    passed = {name: host[name] for name in (*_PASSED, *named) if name in host}",
        new="    passed = dict(host)",
        tests=("tests/redteam/test_e_sandbox.py::test_k9_a_pipelines_variables_do_not_enter",),
    ),
    Mutation(
        name="every system call allowed",
        file="node/sandbox/seccomp.py",
        old="    for _, *numbers, errno in _DENIED:\n",
        new="    for _, *numbers, errno in ():\n",
        tests=("tests/integration/test_jail.py::test_e5_e13_system_calls",),
    ),
    Mutation(
        name="descriptors inherited",
        file="node/sandbox/launch.py",
        old="        kernel.keep_only(kept)\n",
        new="        for fd in os.listdir('/proc/self/fd'):\n            os.set_inheritable(int(fd), True) "
        "if os.path.exists(f'/proc/self/fd/{fd}') else None\n",
        tests=("tests/integration/test_jail.py::test_e4_no_descriptor_is_inherited",),
    ),
    Mutation(
        name="a project file widens",
        file="core/narrowing.py",
        old="        methods = tuple(method for method in request.methods if method in has)",
        new="        methods = tuple(request.methods)",
        tests=("tests/unit/core/test_narrowing.py",),
    ),
    Mutation(
        name="access outlives its task",
        file="wiring/tasks.py",
        old="        self.egress.close(task.id)\n",
        new="",
        tests=("tests/integration/test_many.py::test_what_ends_one_reaches_no_other",),
    ),
    Mutation(
        name="intent after the create",
        file="broker/lease/issuing.py",
        old="            await self._ask(lambda ledger: ledger.intend(entry))\n",
        new="",
        tests=("tests/unit/broker/lease/test_issuing.py",),
    ),
    Mutation(
        name="closed without asking the provider",
        file="broker/lease/issuing.py",
        old="            is_gone = await issuer.revoke(entry.name, recipe.kept)\n",
        new="            is_gone = True\n",
        tests=("tests/unit/broker/lease/test_issuing.py",),
    ),
)
