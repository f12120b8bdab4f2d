"""Key names with values: the syntaxes that are read, how sure a value is, and what is no secret."""

from __future__ import annotations

from functools import cache

import pytest

from layerscope.secrets.engine import Scanner
from layerscope.secrets.placeholders import is_placeholder, is_random
from layerscope.secrets.rules_file import own_rules

VALUE = "N8vd2Qq7xW4z"


@cache
def scanner() -> Scanner:
    return Scanner(own_rules())


def judged(path: str, text: str) -> list[tuple[str, str]]:
    matches = scanner().scan_small([(path, text.encode())])[0].matches
    return [(match.secret.reveal().decode(), match.confidence.value) for match in matches]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("app/config.yml", f"database:\n  password: {VALUE}\n"),
        ("app/config.yml", f"database:\n  password: '{VALUE}'  # comment\n"),
        ("app/config.json", '{"db": {"dbPassword": "' + VALUE + '"}}'),
        ("app/settings.ini", f"[db]\nsecret_key = {VALUE}\n"),
        ("app/application.properties", f"spring.datasource.password={VALUE}\r\n"),
        ("app/Cargo.toml", f'api-key = "{VALUE}"\n'),
        ("app/web.xml", f"<dbPassword>{VALUE}</dbPassword>"),
        ("app/web.config", f'<add password="{VALUE}" />'),
        ("app/config.php", f"define('DB_PASSWORD', '{VALUE}');"),
        ("app/config.php", f"$settings['password'] = '{VALUE}';"),
        ("app/config.php", f"'password' => '{VALUE}',"),
        ("app/main.tf", f'  secret_key = "{VALUE}"\n'),
        ("app/Dockerfile", f"ENV DB_PASSWORD {VALUE}\n"),
        ("app/Dockerfile", f"ARG API_TOKEN={VALUE}\n"),
        ("app/Dockerfile", f"CMD serve --api-key {VALUE}\n"),
        ("app/deployment.yaml", f"- name: DB_PASSWORD\n  value: {VALUE}\n"),
        ("root/.bashrc", f"export GIT_TOKEN={VALUE}\n"),
        ("app/config.yml", f"url: postgres://app:{VALUE}@db.internal:5432/app\n"),
        ("app/readme", f"redis://:{VALUE}@cache.internal:6379\n"),
        ("app/appsettings.json", f'{{"Db": "Server=db.internal;User Id=app;Password={VALUE};"}}'),
        ("app/.env.local", "DB_PASSWORD=hunter2\n"),
    ],
)
def test_values_of_secret_names_in_configuration_are_reported(path: str, text: str) -> None:
    value = VALUE if VALUE in text else "hunter2"
    assert judged(path, text) == [(value, "medium")]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("app/main.py", f'PASSWORD = "{VALUE}"\n'),
        ("app/run.sh", f"PASSWORD={VALUE}\n"),
        ("app/config.yml", "password: hunter2\n"),
        ("app/config.yml", f"# password: {VALUE}\n"),
        ("usr/bin/tool", f'\0\0password="{VALUE}"\0'),
    ],
)
def test_less_certain_values_are_of_low_confidence(path: str, text: str) -> None:
    assert [confidence for _, confidence in judged(path, text)] == ["low"]


@pytest.mark.parametrize(
    "text",
    [
        "password: ''",
        "password: ${DB_PASSWORD}",
        "password: $DB_PASSWORD2",
        "password: '{{ vault_password }}'",
        "password: <your-password-1>",
        "password: %DB_PASSWORD1%",
        "password: changeme123",
        "password: ENC[placeholder1]",
        "password: xxxxxxxx1",
        "password: ********",
        "password: os.environ['A1']",
        "password: config.password1",
        "password_file: /run/secrets/db1",
        "password: /run/secrets/db1",
        "token_url: https://login1.internal/token",
        "secretName: db-credentials-v2",
        "passwordMaxLength: 12345678",
        "password: required",
        "token: true",
        "secret: null",
        "password-policy: strong1strong",
        "token_expiry: 2024-01-01T00:00:00",
        "api_key_id: abc12345678",
        "publicKeyTokens: b77a5c561934e089",
        "password: my-password-1",
        "the password = is written 1 here",
    ],
)
def test_placeholders_and_settings_are_no_secrets(text: str) -> None:
    assert judged("app/config.yml", text + "\n") == []


def test_code_about_secrets_is_none() -> None:
    code = """
        token = tokenizer.next_token(1)
        if password == "password1": raise PasswordError("password2")
        self.secret = secret or generate_secret(32)
        parser.add_argument("--token", help="the token")
        const token = await getToken2(user);
        password: Annotated[str, Field(min_length=12)]
        password_hash = hashlib.sha256(password).hexdigest()
    """
    assert judged("app/main.py", code) == []


@pytest.mark.parametrize(
    "value", [b"$VAR", b"{{x}}", b"<token>", b"aaaaaaa", b"changeme", b"example", b"null", b"@X@"]
)
def test_placeholders(value: bytes) -> None:
    assert is_placeholder(value)


def test_what_looks_generated() -> None:
    assert is_random(VALUE.encode())
    assert not is_random(b"correcthorse")
    assert not is_random(b"a1a1a1a1a1a1")
    assert not is_placeholder(VALUE.encode())
