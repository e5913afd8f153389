"""What servers keep of a password, against what others have computed."""

from __future__ import annotations

import pytest

from leasehold.broker.issuers.mysql_passwords import caching_sha2, native, sha_crypt


def test_the_native_digest_is_the_one_of_the_manual() -> None:
    assert native(b"password") == "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"


@pytest.mark.parametrize(
    ("password", "salt", "digest"),
    [
        # A row of mysql.user as the makers of a password cracker publish it for their mode 7401.
        (
            b"hashcat",
            bytes.fromhex("F9CC98CE08892924F50A213B6BC571A2C11778C5"),
            "bTy95Y99eAME1dwEkHOA1ndHGBWz.1bxSSRkuTXFGV/",
        ),
        # By the crypt of the C library.
        (b"a" * 32, b"abcdefgh12345678", "AlWEi8iZvWTIr/FlQvDEgh8C6BpSeR4JcmgacikuVQB"),
        (b"Hello world!", b"saltstring", "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
    ],
)
def test_the_crypt_is_the_one_of_others(password: bytes, salt: bytes, digest: str) -> None:
    assert sha_crypt(password, salt) == digest


def test_a_row_of_the_table_has_its_kind_and_its_salt() -> None:
    salt = "abcdefghij0123456789"
    made = caching_sha2(b"a" * 32, salt)
    assert made == f"$A$005${salt}{sha_crypt(b'a' * 32, salt.encode())}"
    assert len(made) == 70
