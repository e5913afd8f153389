"""The SSH agent of a task: it signs logins at pinned hosts, and whatever else it is asked it answers with a failure."""

from __future__ import annotations

import asyncio
import tempfile
from binascii import a2b_base64, b2a_base64
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.core.errors import AuditError, GrantRefused, LeaseholdError
from leasehold.core.secret import Secret
from leasehold.node.egress import ssh_agent
from leasehold.node.egress.ssh_agent import Identity, SshAgent, host_key_blobs

HostKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
FAILURE, SUCCESS, CLOSED = b"\5", b"\6", b""
LIST = b"\x0b"
SESSION = bytes(range(32))
BIND = b"session-bind@openssh.com"
BOUND = b"publickey-hostbound-v00@openssh.com"
HOST, OTHER = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
HOSTS: dict[str, HostKey] = {
    "ed25519": HOST,
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": RSA,
}


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def number(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def blob(key: HostKey) -> bytes:
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return a2b_base64(line.split(b" ")[1])


def signed(key: HostKey, data: bytes, *, bits: int = 512) -> bytes:
    """As a host signs the hash of an exchange."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return string(b"ssh-ed25519") + string(key.sign(data))
    if isinstance(key, rsa.RSAPrivateKey):
        digest = hashes.SHA256() if bits == 256 else hashes.SHA512()
        return string(f"rsa-sha2-{bits}".encode()) + string(key.sign(data, padding.PKCS1v15(), digest))
    size = key.key_size
    by_size = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(by_size[size])))
    return string(f"ecdsa-sha2-nistp{size}".encode()) + string(number(r) + number(s))


def pem(key: HostKey) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def certificate(key: ed25519.Ed25519PrivateKey) -> bytes:
    builder = SSHCertificateBuilder().public_key(key.public_key()).type(SSHCertificateType.USER)
    return builder.valid_principals([b"deploy"]).valid_after(0).valid_before(1 << 40).sign(OTHER).public_bytes()


KEY = ed25519.Ed25519PrivateKey.generate()
CERTIFICATE = certificate(KEY)
CERT = a2b_base64(CERTIFICATE.split(b" ")[1])
KIND = b"ssh-ed25519-cert-v01@openssh.com"
TASK_KEY = Identity(certificate=CERTIFICATE, private_key=pem(KEY), host_keys=frozenset(map(blob, HOSTS.values())))


def bind(
    host: HostKey = HOST, *, session: bytes = SESSION, signature: bytes | None = None, rest: bytes = b"\0"
) -> bytes:
    signature = signed(host, session) if signature is None else signature
    return b"\x1b" + string(BIND) + string(blob(host)) + string(session) + string(signature) + rest


def login(
    *,
    session: bytes = SESSION,
    kind: bytes = b"\x32",
    service: bytes = b"ssh-connection",
    method: bytes = b"publickey",
    flag: bytes = b"\1",
    algorithm: bytes = KIND,
    key: bytes = CERT,
    rest: bytes = b"",
) -> bytes:
    """What a client has signed to log in."""
    head = string(session) + kind + string(b"deploy") + string(service) + string(method)
    return head + flag + string(algorithm) + string(key) + rest


def sign(data: bytes, key: bytes = CERT, flags: bytes = b"\0\0\0\0") -> bytes:
    return b"\x0d" + string(key) + string(data) + flags


class Desk:
    """What the task has, and what was refused to it. ``error`` is raised instead; ``unrecorded`` when refusing."""

    def __init__(self, *has: Identity) -> None:
        self.has = has
        self.error: LeaseholdError | None = None
        self.unrecorded: LeaseholdError | None = None
        self.reasons: list[str] = []
        self.asked: list[bytes] = []

    async def identities(self, task: str, host_key: bytes) -> Sequence[Identity]:
        assert task == "t1"
        self.asked.append(host_key)
        if self.error is not None:
            raise self.error
        return [each for each in self.has if not host_key or host_key in each.host_keys]

    def refused(self, task: str, reason: str) -> None:
        assert task == "t1"
        if self.unrecorded is not None:
            raise self.unrecorded
        self.reasons.append(reason)


class Client:
    """One connection to the agent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, message: bytes) -> bytes:
        return await self.send(string(message))

    async def send(self, raw: bytes) -> bytes:
        """The answer; :data:`CLOSED` where there is none."""
        try:
            self.writer.write(raw)
            await self.writer.drain()
            return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4), "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSED


Connect = Callable[[], Awaitable[Client]]


def play(desk: Desk, script: Callable[[Connect, SshAgent], Awaitable[None]]) -> None:
    """Run ``script`` against an agent on a socket; no exception may come out of the agent's side."""
    escaped: list[object] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: escaped.append(context))
        with tempfile.TemporaryDirectory(prefix="lh-") as folder:
            agent, path, clients = SshAgent("t1", desk), Path(folder) / "agent", []
            await agent.start(path)
            assert path.stat().st_mode & 0o777 == 0o600

            async def connect() -> Client:
                clients.append(Client(*await asyncio.open_unix_connection(path)))
                return clients[-1]

            try:
                await script(connect, agent)
            finally:
                agent.close()
                agent.close()
                for client in clients:
                    client.writer.close()
            assert not path.exists()
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
            await asyncio.sleep(0)

    asyncio.run(run())
    assert not escaped


def asked(desk: Desk, *messages: bytes) -> list[bytes]:
    """The answers on one connection."""
    answers: list[bytes] = []

    async def script(connect: Connect, _agent: SshAgent) -> None:
        client = await connect()
        for message in messages:
            answers.append(await client.ask(message))

    play(desk, script)
    return answers


def check_signature(answer: bytes, data: bytes) -> None:
    head = b"\x0e" + string(string(b"ssh-ed25519") + string(bytes(64)))[:23]
    assert answer[: len(head)] == head and len(answer) == len(head) + 64
    KEY.public_key().verify(answer[-64:], data)


def test_a_closed_agent_that_never_started_is_closed() -> None:
    SshAgent("t1", Desk()).close()


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("bits", [256, 512])
def test_it_signs_a_login_in_the_session_with_a_pinned_host(name: str, bits: int) -> None:
    host, desk = HOSTS[name], Desk(TASK_KEY)
    data = login(method=BOUND, rest=string(blob(host)))
    bound = bind(host, signature=signed(host, SESSION, bits=bits))
    bind_answer, listed, plain, hostbound = asked(desk, bound, LIST, sign(login()), sign(data))
    assert bind_answer == SUCCESS
    assert listed == b"\x0c\0\0\0\1" + string(CERT) + string(b"leasehold")
    check_signature(plain, login())
    check_signature(hostbound, data)
    assert desk.reasons == [] and set(desk.asked) == {blob(host)}


def test_it_lists_all_where_no_host_is_known_and_none_for_another() -> None:
    desk = Desk(TASK_KEY)
    assert asked(desk, LIST)[0].startswith(b"\x0c\0\0\0\1")
    assert asked(desk, bind(OTHER), LIST) == [SUCCESS, b"\x0c\0\0\0\0"]
    assert desk.reasons == ["the host's key is not pinned"]
    assert asked(Desk(), LIST) == [b"\x0c\0\0\0\0"]


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def bad_signatures() -> list[tuple[HostKey, bytes]]:
    found: list[tuple[HostKey, bytes]] = []
    for host in HOSTS.values():
        good = signed(host, SESSION)
        # Another session's, a broken one, one of another host, one under another name, and none.
        found += [(host, signed(host, SESSION[::-1])), (host, flipped(good)), (host, signed(OTHER, SESSION))]
        found += [
            (host, string(b"ssh-rsa") + good[4 + int.from_bytes(good[:4], "big") :]),
            (host, b""),
            (host, good[:9]),
        ]
    found.append((HOSTS["p256"], string(b"ecdsa-sha2-nistp256") + string(number(0) + number(0))))
    found.append((HOSTS["p256"], string(b"ecdsa-sha2-nistp256") + string(number(1 << 4000) + number(1))))
    found.append((HOSTS["p256"], string(b"ecdsa-sha2-nistp256") + string(number(1))))
    return found


@pytest.mark.parametrize(("host", "signature"), bad_signatures())
def test_what_the_host_did_not_sign_is_no_session(host: HostKey, signature: bytes) -> None:
    """Nor is it afterwards, when a good one follows."""
    desk = Desk(TASK_KEY)
    assert asked(desk, bind(host, signature=signature), sign(login()), bind(host), sign(login()))[0::3] == [FAILURE] * 2
    assert desk.reasons[:2] == ["the host did not sign the session"] * 2


SK = string(b"sk-ecdsa-sha2-nistp256@openssh.com") + blob(HOSTS["p256"])[23:] + string(b"ssh:")
WIDE = string(b"ssh-rsa") + number(3) + number((1 << 40_000) + 1)
EXPONENT = string(b"ssh-rsa") + number((1 << 3000) + 1) + number((1 << 4096) - 1)
DSA = string(b"ssh-dss") + number(7) + number(3) + number(2) + number(1)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (SK, b"sk-ecdsa-sha2-nistp256@openssh.com"),
        (WIDE, b"rsa-sha2-256"),
        (EXPONENT, b"rsa-sha2-256"),
        (DSA, b"ssh-dss"),
        (string(b"ssh-ed25519") + string(b"short"), b"ssh-ed25519"),
        (string(b"\xff\n") + string(b"x"), b"\xff\n"),
        (CERT, b"ssh-ed25519"),
        (b"", b""),
    ],
)
def test_keys_that_no_host_has_bind_nothing(key: bytes, name: bytes) -> None:
    signature = string(name) + string(number(5) + number(5) if b"ecdsa" in name else bytes(512))
    message = b"\x1b" + string(BIND) + string(key) + string(SESSION) + string(signature) + b"\0"
    desk = Desk(TASK_KEY)
    assert asked(desk, message, sign(login())) == [FAILURE, FAILURE]
    assert desk.reasons == ["the host did not sign the session"] * 2


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([sign(login())], "the connection is bound to no session with a host"),
        ([bind(rest=b"\1"), sign(login())], "the connection was forwarded or bound before"),
        ([bind(), bind(rest=b"\1"), sign(login())], "the connection was forwarded or bound before"),
        ([bind(), bind(), sign(login())], "the connection was forwarded or bound before"),
        ([bind(), bind(HOSTS["p256"]), sign(login())], "the connection was forwarded or bound before"),
        ([bind(session=b""), sign(login(session=b""))], "the connection is bound to no session with a host"),
        ([bind(rest=b"")], "it is malformed"),
        ([bind(rest=b"\0\0")], "it is malformed"),
        ([bind()[:-40]], "it is malformed"),
        ([b"\x1b"], "it is malformed"),
        ([bind(), sign(login(), flags=b"")], "it is malformed"),
        ([bind(), sign(login())[:-9]], "it is malformed"),
        ([bind(), sign(login(), key=blob(KEY))], "the key is none of the task's"),
        ([bind(OTHER), sign(login())], "the key is none of the task's"),
    ],
)
def test_a_connection_that_is_bound_otherwise_signs_nothing(messages: list[bytes], reason: str) -> None:
    desk = Desk(TASK_KEY)
    assert asked(desk, *messages)[-1] == FAILURE
    assert desk.reasons[-1] == reason


LOGIN = "the data is no login in the session of the connection"
CERTIFIED = "the data is no login with the task's certificate"
SSHSIG = b"SSHSIG" + string(b"file") + string(b"") + string(b"sha512") + string(bytes(64))
HOSTKEY = string(blob(HOST))
NOT_SIGNED = [
    (login(session=SESSION[::-1]), LOGIN),
    (login(session=b""), LOGIN),
    (login(kind=b"\x33"), LOGIN),
    (string(SESSION), LOGIN),
    (login(service=b"ssh-userauth"), CERTIFIED),
    (login(method=b"hostbased"), CERTIFIED),
    (login(flag=b"\0"), CERTIFIED),
    (login(algorithm=b"ssh-ed25519"), CERTIFIED),
    (login(key=blob(KEY)), CERTIFIED),
    (login(rest=b"\0"), CERTIFIED),
    (login(rest=HOSTKEY), CERTIFIED),
    (login(method=BOUND, rest=HOSTKEY + b"\0"), CERTIFIED),
    (login(method=BOUND, rest=string(blob(OTHER))), "the login is for another host"),
    (login(method=BOUND, rest=string(blob(HOSTS["p256"]))), "the login is for another host"),
    (login(method=BOUND), "it is malformed"),
    (login()[:-1], "it is malformed"),
    (SSHSIG, "it is malformed"),
    (b"", "it is malformed"),
]


@pytest.mark.parametrize(("data", "reason"), NOT_SIGNED)
def test_data_that_is_no_login_there_is_not_signed(data: bytes, reason: str) -> None:
    """What follows on the same connection is: a refusal of data says nothing about the session."""
    desk = Desk(TASK_KEY)
    _, refused, allowed = asked(desk, bind(), sign(data), sign(login()))
    assert refused == FAILURE and desk.reasons == [reason]
    check_signature(allowed, login())


def test_the_host_is_compared_whatever_it_was_asked_for() -> None:
    """An authority that gives more than it was asked for makes no signature."""
    desk = Desk(TASK_KEY)

    async def all_of_them(task: str, host_key: bytes) -> Sequence[Identity]:
        return [TASK_KEY]

    desk.identities = all_of_them  # type: ignore[method-assign]
    assert asked(desk, bind(OTHER), sign(login())) == [SUCCESS, FAILURE]
    assert desk.reasons == ["the host's key is not pinned"]


def test_each_key_is_for_its_own_hosts() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    line = certificate(key)
    second = Identity(certificate=line, private_key=pem(key), host_keys=frozenset([blob(OTHER)]))
    own = a2b_base64(line.split(b" ")[1])
    desk = Desk(TASK_KEY, second)
    data = login(key=own)
    assert asked(desk, bind(HOST), sign(data, key=own)) == [SUCCESS, FAILURE]
    assert asked(desk, bind(OTHER), sign(data, key=own))[1][:1] == b"\x0e"


def test_a_key_of_another_kind_signs_nothing() -> None:
    desk = Desk(Identity(certificate=CERTIFICATE, private_key=pem(RSA), host_keys=frozenset([blob(HOST)])))
    assert asked(desk, bind(), sign(login())) == [SUCCESS, FAILURE]
    assert desk.reasons == ["the task's key is of another kind"]


@pytest.mark.parametrize("message", [b"\0", LIST + b"\0", b"\x11key", b"\x13", b"\x16pin", b"\x1b" + string(b"query")])
def test_what_it_does_not_do_fails(message: bytes) -> None:
    assert asked(Desk(TASK_KEY), message, LIST)[0] == FAILURE


def test_a_bound_connection_signs_no_more_when_the_lease_has_ended() -> None:
    desk = Desk(TASK_KEY)

    async def script(connect: Connect, _agent: SshAgent) -> None:
        client = await connect()
        assert await client.ask(bind()) == SUCCESS
        check_signature(await client.ask(sign(login())), login())
        desk.error = GrantRefused("revoked by the operator", hint="none")
        assert await client.ask(sign(login())) == FAILURE
        assert await client.ask(LIST) == FAILURE

    play(desk, script)
    assert desk.reasons == []


@pytest.mark.parametrize("message", [sign(login()), b"\x1b", bind(rest=b"\1")])
def test_a_refusal_that_cannot_be_recorded_is_a_failure(message: bytes) -> None:
    desk = Desk(TASK_KEY)
    desk.unrecorded = AuditError("the disk is full", hint="free some")
    assert asked(desk, message, LIST)[0] == FAILURE


@pytest.mark.parametrize("raw", [bytes(4), b"\xff\xff\xff\xff", (65537).to_bytes(4, "big") + LIST])
def test_what_is_empty_or_too_long_closes_the_connection(raw: bytes) -> None:
    desk = Desk(TASK_KEY)

    async def script(connect: Connect, _agent: SshAgent) -> None:
        client, other = await connect(), await connect()
        assert await client.send(raw) == CLOSED
        assert await client.ask(LIST) == CLOSED
        assert await other.ask(b"\xff" * 65536) == FAILURE
        other.writer.write(b"\0\0\0\x09" + LIST)
        other.writer.write_eof()
        assert await other.reader.read() == b""

    play(desk, script)


def test_one_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_agent, "_IDLE_S", 0.0)

    async def script(connect: Connect, _agent: SshAgent) -> None:
        assert await (await connect()).reader.read() == b""

    play(Desk(), script)


def test_there_is_an_end_to_connections() -> None:
    async def script(connect: Connect, _agent: SshAgent) -> None:
        many = [await connect() for _ in range(64)]
        for client in many:
            assert (await client.ask(LIST))[:1] == b"\x0c"
        assert await (await connect()).ask(LIST) == CLOSED
        many[0].writer.write_eof()
        assert await many[0].reader.read() == b""
        assert (await (await connect()).ask(LIST))[:1] == b"\x0c"

    play(Desk(TASK_KEY), script)


def test_closing_cuts_what_is_open_also_under_way() -> None:
    desk, reached, go_on = Desk(TASK_KEY), asyncio.Event(), asyncio.Event()

    async def slow(task: str, host_key: bytes) -> Sequence[Identity]:
        reached.set()
        await go_on.wait()
        return [TASK_KEY]

    async def script(connect: Connect, agent: SshAgent) -> None:
        idle, waiting = await connect(), await connect()
        assert await idle.ask(bind()) == SUCCESS
        assert await waiting.ask(bind()) == SUCCESS
        desk.identities = slow  # type: ignore[method-assign]
        answer = asyncio.create_task(waiting.ask(sign(login())))
        await reached.wait()
        agent.close()
        go_on.set()
        assert await answer == CLOSED
        assert await idle.ask(LIST) == CLOSED
        with pytest.raises(OSError):
            await connect()

    play(desk, script)


def test_blobs_of_the_keys_of_hosts() -> None:
    lines = [f"{name} {b2a_base64(blob(host), newline=False).decode()}" for name, host in HOSTS.items()]
    assert host_key_blobs(lines) == TASK_KEY.host_keys


WORDS = [b"", SESSION, CERT, blob(HOST), blob(OTHER), BIND, BOUND, b"ssh-connection", b"publickey", KIND]
STRINGS = (st.sampled_from(WORDS) | st.binary(max_size=40)).map(string)
RAW = st.lists(STRINGS | st.binary(max_size=6), max_size=9).map(b"".join)
NEARLY = st.builds(
    lambda data, at, by: data[:at] + by + data[at + 1 :],
    st.sampled_from([login(), sign(login()), bind()]),
    st.integers(0, 300),
    st.binary(max_size=2),
)
MESSAGES = st.one_of(
    st.builds(lambda kind, rest: bytes([kind]) + rest, st.sampled_from([11, 13, 27]) | st.integers(0, 255), RAW),
    st.builds(sign, NEARLY | RAW),
    NEARLY.filter(bool),
)
GOOD = (login(), login(method=BOUND, rest=HOSTKEY))


@settings(max_examples=150, deadline=None)
@given(first=st.booleans(), messages=st.lists(MESSAGES, min_size=1, max_size=6))
def test_it_signs_nothing_but_the_login_whatever_is_sent(first: bool, messages: list[bytes]) -> None:
    desk = Desk(TASK_KEY)
    sent = [bind()] * first + messages
    bound = first or bind() in messages
    for message, answer in zip(sent, asked(desk, *sent), strict=True):
        if answer[:1] == b"\x0e":
            # The name of the user is free.
            assert bound and message[:1] == b"\x0d"
            key, data = message[5 : 5 + len(CERT)], message[9 + len(CERT) : -4]
            user = data[41 : 41 + int.from_bytes(data[37:41], "big")]
            assert key == CERT and data.replace(string(user), string(b"deploy"), 1) in GOOD
            check_signature(answer, data)
        else:
            assert answer in (FAILURE, SUCCESS) or answer[:4] == b"\x0c\0\0\0", answer
