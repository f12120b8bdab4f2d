"""Credential files: known by name or first bytes, read by their format; what is not in its format is quiet."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.secrets.credential_parsers import PARSERS
from layerscope.secrets.engine import Scanner
from layerscope.secrets.match import Confidence, Match
from layerscope.secrets.rules_file import own_rules
from tests.secrets.specimens import armoured_key

VALUE = "N8vd2Qq7xW4z"
RULES = {rule.id: rule for rule in own_rules().rules}
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@cache
def scanner() -> Scanner:
    return Scanner(own_rules())


def scan(path: str, content: str | bytes) -> list[Match]:
    data = content.encode() if isinstance(content, str) else content
    return list(scanner().scan_small([(path, data)])[0].matches)


def found(path: str, content: str | bytes) -> list[tuple[str, str]]:
    return [(match.rule_id, match.secret.reveal().decode("latin-1")) for match in scan(path, content)]


def jks(*entries: bytes) -> bytes:
    return bytes.fromhex("feedfeed00000002") + len(entries).to_bytes(4) + b"".join(entries) + b"\0" * 20


KEEPASS = bytes.fromhex("03d9a29a67fb4bb5") + b"x"
CERTIFICATE_ENTRY = b"\0\0\0\2" + b"\0\2ca" + b"\0" * 8 + b"\0\5X.509" + b"\0\0\0\4cert"
KEY_ENTRY = b"\0\0\0\1" + b"\0\3key" + b"\0" * 8 + b"\0\0\0\4body"


def test_docker_config_holds_a_password_in_base64() -> None:
    auth = base64.b64encode(f"builder:{VALUE}".encode()).decode()
    content = json.dumps({"auths": {"registry.example.com": {"auth": auth}, "other": {"auth": ""}, "third": {}}})
    assert found("root/.docker/config.json", content) == [("docker-config-auth", auth)]
    [match] = scan("root/.docker/config.json", content)
    assert content[match.offset :].startswith(auth)
    assert found("srv/config.json", content) == []
    empty = base64.b64encode(b"builder:").decode()
    assert found("root/.docker/config.json", json.dumps({"auths": {"x": {"auth": empty}}})) == []


def test_a_name_counts_only_in_its_folder() -> None:
    assert found("etc/shadow", "root:$6$k3J9sV2q$" + "Zr8Q1tYw7Lk0" * 7 + ":1:::::")
    assert found("app/database.yml", f"password: {VALUE}")[0][0] == "assignment-unquoted"
    assert found("app/config/database.yml", f"password: {VALUE}")[0][0] == "rails-secret"


def test_netrc_is_read_as_words() -> None:
    content = f"machine a\n  login b\n  password\n    {VALUE}\nmacdef init\n# password commented1\n"
    assert found("root/.netrc", content) == [("netrc-password", VALUE)]


def test_pgpass_knows_escapes_and_comments() -> None:
    content = f"#db:1:*:u:{VALUE}\ndb\\:x:5432:*:app:a\\:{VALUE}\n"
    assert found("root/.pgpass", content) == [("pgpass-password", "a\\:" + VALUE)]


def test_locked_accounts_have_no_hash() -> None:
    hashed = "$y$j9T$k3J9sV2qZr8Q1tYw7Lk0$pQz7abcdWXYZ4711tR9mabcdWXYZ"
    content = f"root:{hashed}:19000:0:99999:7:::\ndaemon:*:1::::::\nbin:!:1::::::\nsync:!!:1::::::\nx::1::::::\n"
    assert found("etc/shadow", content) == [("shadow-hash", hashed)]
    assert found("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n") == []


def test_terraform_state_is_walked() -> None:
    state = {
        "version": 4,
        "outputs": {"dsn": {"value": "p" + VALUE, "sensitive": True}, "host": {"value": "db.internal"}},
        "resources": [
            {"instances": [{"attributes": {"master_password": VALUE, "id": "i-1", "token_type": "Bearer1"}}]}
        ],
    }
    assert sorted(found("infra/terraform.tfstate", json.dumps(state))) == [
        ("terraform-state-secret", VALUE),
        ("terraform-state-secret", "p" + VALUE),
    ]


def test_key_stores_with_certificates_alone_are_no_finding() -> None:
    assert found("etc/ssl/certs/java/cacerts", jks(CERTIFICATE_ENTRY, CERTIFICATE_ENTRY)) == []
    [match] = scan("opt/app/server.bin", jks(CERTIFICATE_ENTRY, KEY_ENTRY))
    assert (match.rule_id, match.confidence) == ("java-key-store", Confidence.MEDIUM)


def test_stores_known_by_their_first_bytes() -> None:
    assert [match.rule_id for match in scan("home/x/vault", KEEPASS)] == ["keepass-database"]
    assert [match.rule_id for match in scan("etc/krb5.keytab", b"\5\2" + b"\0" * 30)] == ["kerberos-keytab"]
    assert scan("etc/krb5.keytab", b"\5\2") == []


@needs_openssl
def test_pkcs12_with_and_without_a_key(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem", "-out", "c.pem", "-subj", "/CN=x")
    openssl("pkcs12", "-export", "-inkey", "k.pem", "-in", "c.pem", "-out", "full.p12", "-passout", "pass:x")
    openssl("pkcs12", "-export", "-nokeys", "-in", "c.pem", "-out", "certs.p12", "-passout", "pass:x")
    openssl("pkey", "-in", "k.pem", "-outform", "DER", "-out", "k.der")
    openssl("pkey", "-in", "k.pem", "-aes256", "-passout", "pass:x", "-out", "e.pem")
    openssl("rsa", "-in", "k.pem", "-traditional", "-aes128", "-passout", "pass:x", "-out", "t.pem")
    results = {
        name: scan(f"opt/{name}", (tmp_path / name).read_bytes())
        for name in sorted(("full.p12", "certs.p12", "k.der", "k.pem", "e.pem", "t.pem", "c.pem"))
    }
    assert {name: [(m.rule_id, m.confidence.value) for m in matches] for name, matches in results.items()} == {
        "full.p12": [("pkcs12-key-store", "medium")],
        "certs.p12": [],
        "k.der": [("tls-key-der", "medium")],
        "k.pem": [("private-key", "high")],
        "e.pem": [("private-key", "medium")],
        "t.pem": [("private-key", "medium")],
        "c.pem": [],
    }
    assert "passphrase" in results["t.pem"][0].title
    assert "AES-128-CBC" in results["t.pem"][0].title


@needs_ssh_keygen
@pytest.mark.parametrize(("passphrase", "confidence"), [("", "high"), ("x", "medium")])
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_openssh_keys_tell_whether_they_are_protected(
    tmp_path: Path, kind: str, passphrase: str, confidence: str
) -> None:
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", key], check=True, capture_output=True)
    [match] = scan("home/x/some-file", key.read_bytes())
    assert (match.rule_id, match.confidence.value) == ("private-key", confidence)
    assert match.title.endswith("(protected by a passphrase, aes256-ctr)") is bool(passphrase)
    assert scan("home/x/id.pub", (tmp_path / "id.pub").read_bytes()) == []


def test_a_key_written_as_a_string_is_found() -> None:
    written = json.dumps({"type": "service_account", "private_key": armoured_key("")})
    [match] = scan("srv/account.json", written)
    assert match.rule_id == "private-key"
    assert match.confidence is Confidence.HIGH


def test_a_mention_of_a_key_is_none() -> None:
    for text in (
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\\n...\\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\0-----BEGIN CERTIFICATE-----\0more strings of a library\0",
    ):
        assert scan("usr/lib/libx.so", text) == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(PARSERS)))
def test_no_parser_fails_on_anything(content: bytes, parser: str) -> None:
    heads = [
        b"",
        bytes.fromhex("feedfeed"),
        b"\x30\x82\x01\x01\x02\x01\x03\x30",
        b'{"auths": ',
        b"[" * 5000,
        b"\x05\x02",
    ]
    rule = next(rule for rule in RULES.values() if rule.parser == parser)
    for head in heads:
        for credential in PARSERS[parser](head + content, rule):
            assert credential.value


def test_hostile_json_is_quiet() -> None:
    for content in (
        "[" * 100_000,
        '{"auths": {"a": []}}',
        '{"auths": 3}',
        "[1]",
        "nul",
        '{"auths": {"a": {"auth": 7}}}',
    ):
        assert scan("root/.docker/config.json", content) == []
        assert scan("x.tfstate", content) == []


def test_a_key_among_the_strings_of_a_program_is_of_low_confidence() -> None:
    program = b"\x7fELF" + b"\0" * 60 + armoured_key().encode() + b"\0"
    [match] = scan("usr/lib/libtls.so", program)
    assert (match.rule_id, match.confidence) == ("private-key", Confidence.LOW)
    [match] = scan("srv/backup.tar", b"\0" * 64 + armoured_key().encode() + b"\0")
    assert match.confidence is Confidence.HIGH
