"""The configuration file: every mistake at once, each with its place, and what a good one says (CONTRACT §7)."""

import re
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from spoold.cli.config import Config, ConfigError, find, read
from spoold.core.quantity import parse_duration
from spoold.core.schedule.rate import parse_rate
from spoold.smtp.relay import SecretError, Security

MINIMAL = "spool: .\nrelays: {default: {host: localhost}}\n"

#: CONTRACT §7, word by word.
CONTRACT = """\
spool: /var/spool/spoold
timezone: Europe/Vienna
relays:
  default:
    host: smtp.example.com
    port: 587
    security: starttls         # none, starttls, tls; certificates are verified; ca_file adds a private CA
    username: me
    password_file: smtp-password        # relative to the configuration; or credential: NAME (systemd LoadCredential)
    connections: 20
    recipients_per_message: 100
    rate: 36000/h
    fallback: second           # another relay to use while this one is down
  second: {host: 127.0.0.1, port: 25, security: none}
rate: 50000/h                  # the whole agent
domain_rates: {gmail.com: 600/m}
windows: []                    # always, unless given
retry: {every: 1h, for: 5d}
intake: {settle: 30s, stale: 1d, quiet: true, max_recipients: 2000000, max_message: 50MB}
keep_done: 30d                 # then the folder is removed; `forever` keeps it
notify: null                   # an address that gets a summary mail when a job ends
log: {format: auto, level: info}        # auto: console on a terminal, else JSON; journald priorities under systemd
"""


def load(folder: Path, text: str) -> Config:
    (folder / "spoold.yaml").write_text(text)
    return read(folder / "spoold.yaml")


def problems(folder: Path, text: str) -> dict[str, str]:
    """The texts of the problems by their places, `LINE:COLUMN`."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    found = {}
    for line in str(caught.value).splitlines():
        assert line.isprintable()
        match = re.fullmatch(rf"{re.escape(str(folder))}/spoold\.yaml:(\d+:\d+): (.+)", line)
        assert match is not None, line
        assert match[1] not in found
        found[match[1]] = match[2]
    return found


def test_example_of_the_contract_says_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "smtp-password").write_text("s3cret\n")
    config = load(tmp_path, CONTRACT)
    assert config.spool == Path("/var/spool/spoold")
    assert (config.log.format, config.log.level) == ("auto", "info")
    first, second = config.agent.relays["default"], config.agent.relays["second"]
    assert (first.host, first.port, first.security) == ("smtp.example.com", 587, Security.STARTTLS)
    assert (first.username, first.connections, first.recipients_per_message) == ("me", 20, 100)
    assert first.password is not None
    assert first.password() == "s3cret"
    assert (first.fallback, second.fallback) == ("second", None)
    assert (second.host, second.port, second.security) == ("127.0.0.1", 25, Security.NONE)
    intake = config.agent.intake
    assert (intake.settle, intake.stale, intake.quiet) == (30.0, 86400.0, True)
    assert (intake.max_recipients, intake.max_message) == (2_000_000, 50_000_000)
    assert config.agent.keep_done == parse_duration("30d")
    assert config.agent.defaults.zone == ZoneInfo("Europe/Vienna")
    assert config.agent.limits.agent == parse_rate("50000/h")
    assert config.agent.limits.relays == {"default": parse_rate("36000/h")}
    assert config.agent.limits.domains == {"gmail.com": parse_rate("600/m")}


def test_least_configuration_has_the_defaults_of_the_example(tmp_path: Path) -> None:
    least, whole = load(tmp_path, MINIMAL), load(tmp_path, CONTRACT)
    assert least.agent.intake == whole.agent.intake
    assert least.agent.keep_done == whole.agent.keep_done
    assert least.agent.defaults.retry == whole.agent.defaults.retry
    assert least.agent.defaults.windows == whole.agent.defaults.windows
    assert least.log == whole.log
    relay = least.agent.relays["default"]
    assert (relay.security, relay.port) == (Security.STARTTLS, 587)
    assert (relay.connections, relay.recipients_per_message) == (20, 100)


@pytest.mark.parametrize(("security", "port"), [("none", 25), ("starttls", 587), ("tls", 465)])
def test_port_follows_from_security(tmp_path: Path, security: str, port: int) -> None:
    text = f"spool: .\nrelays: {{default: {{host: localhost, security: {security}}}}}\n"
    assert load(tmp_path, text).agent.relays["default"].port == port


def test_every_mistake_of_form_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    text = """\
timezone: Vienna
relays:
  default:
    host: ""
    port: 70000
    security: ssl
    conections: 5
    recipients_per_message: many
    rate: fast
rate: 0/h
domain_rates: {gmail.com: 600}
windows: ["25:00-26:00"]
retry: {every: 1h, fro: 5d}
intake: {settle: soon, quiet: perhaps, max_message: 5XB}
notify: nobody
log: {format: xml, level: loud}
colour: blue
"""
    found = problems(tmp_path, text)
    expected = {
        "1:1": "spool", "1:11": "Vienna", "4:11": "a host name", "5:11": "65535", "6:15": "starttls",
        "7:5": "did you mean 'connections'?", "8:29": "a whole number", "9:11": "fast", "10:7": "0/h",
        "11:27": "600", "12:11": "25:00", "13:20": "did you mean 'for'?", "14:18": "soon", "14:31": "true or false",
        "14:53": "5XB", "15:9": "nobody", "16:15": "console", "16:27": "warning", "17:1": "known here: ",
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for place, part in expected.items():
        assert part in found[place], found[place]


@pytest.mark.parametrize(
    ("relays", "column", "part"),
    [
        ("{default: {host: smtp example.com}}", 26, "expected a host name such as smtp.example.com, or an IP address"),
        ('{default: {host: "smtp.example.com\\n"}}', 26, r"got 'smtp.example.com\x0a'"),
        ("{default: {host: 25}}", 26, "got 25"),
        ('{"a\\tb": {host: smtp.example.com}}', 10, r"expected a name for the relay, such as default; got 'a\x09b'"),
        ('{"": {host: smtp.example.com}}', 10, "expected a name for the relay"),
    ],
)
def test_names_and_hosts_of_relays_can_stand_in_a_report(tmp_path: Path, relays: str, column: int, part: str) -> None:
    found = problems(tmp_path, f"spool: .\nrelays: {relays}\n")
    assert found.keys() == {f"2:{column}"}
    assert part in found[f"2:{column}"]


@pytest.mark.parametrize(
    ("relay", "column", "part"),
    [
        ("{host: mx.example, security: none, username: me, password_file: p}", 48, "not sent in clear"),
        ("{host: 10.0.0.1, security: none, username: me, password_file: p}", 46, "not sent in clear"),
        ("{host: localhost.example, security: none, username: me, password_file: p}", 55, "not sent in clear"),
        ("{host: mx.example, username: me}", 48, "needs a password_file or a credential"),
        ("{host: mx.example, password_file: p}", 53, "a password needs a username"),
        ("{host: mx.example, credential: p}", 50, "a password needs a username"),
        ("{host: mx.example, username: me, password_file: p, credential: c}", 82, "not both"),
        ("{host: mx.example, ca_file: missing.pem}", 47, "no such file: "),
        ("{host: mx.example, fallback: other}", 48, "no relay 'other'; there are default"),
        ("{host: mx.example, fallback: default}", 48, "in a circle, back to default"),
    ],
)
def test_relay_that_makes_no_sense_is_refused(tmp_path: Path, relay: str, column: int, part: str) -> None:
    (tmp_path / "p").write_text("secret\n")
    found = problems(tmp_path, f"relays: {{default: {relay}}}\nspool: .\n")
    assert list(found) == [f"1:{column}"]
    assert part in found[f"1:{column}"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_password_in_clear_to_this_machine_is_allowed(tmp_path: Path, host: str) -> None:
    (tmp_path / "p").write_text("secret\n")
    relay = f'{{host: "{host}", security: none, username: me, password_file: p}}'
    assert load(tmp_path, f"spool: .\nrelays: {{default: {relay}}}\n").agent.relays["default"].host == host


def test_circle_of_fallbacks_is_found_however_long(tmp_path: Path) -> None:
    text = """\
spool: .
relays:
  a: {host: a.example, fallback: b}
  b: {host: b.example, fallback: c}
  c: {host: c.example, fallback: a}
  d: {host: d.example}
  e: {host: e.example, fallback: d}
"""
    found = problems(tmp_path, text)
    assert set(found) <= {"3:34", "4:34", "5:34"}
    assert found
    assert all("circle" in text for text in found.values())
    assert load(tmp_path, text.replace("fallback: a", "fallback: e")).agent.relays["c"].fallback == "e"


def test_every_mistake_of_sense_is_told_at_once(tmp_path: Path) -> None:
    text = """\
spool: .
relays:
  a: {host: a.example, fallback: nowhere}
  b: {host: b.example, ca_file: missing.pem}
  c: {host: c.example, username: me}
keep_done: always
"""
    assert list(problems(tmp_path, text)) == ["3:34", "4:33", "5:34", "6:12"]


def test_mistakes_of_form_and_of_sense_are_told_together(tmp_path: Path) -> None:
    text = """\
spool: .
relays:
  a: {host: a.example, fallback: nowhere}
log: {level: loud}
keep_done: always
"""
    assert list(problems(tmp_path, text)) == ["3:34", "4:14", "5:12"]


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        ("", "1:1", "the file is empty"),
        ("- a\n", "1:1", "expected `key: value` lines"),
        ("spool: .\nspool: .\nrelays: {default: {host: localhost}}\n", "2:1", "twice"),
        ("spool: &x .\nrelays: {default: {host: *x}}\n", "1:8", "anchor"),
        ("spool: [\n", "2:1", ""),
        ("spool: .\nrelays: {}\n", "2:9", ""),
        ("spool: .\nrelays: [localhost]\n", "2:9", "a mapping"),
        ("spool: .\n\trelays: {}\n", "2:1", ""),
    ],
)
def test_document_that_is_none_is_refused_at_its_place(tmp_path: Path, text: str, place: str, part: str) -> None:
    found = problems(tmp_path, text)
    assert place in found
    assert any(part in problem for problem in found.values())


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: cannot be read: "):
            read(path)


def test_paths_are_relative_to_the_file_wherever_it_is_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "etc" / "password").write_text("secret")
    (tmp_path / "etc" / "spoold.yaml").write_text(
        "spool: ../spool\nrelays: {default: {host: localhost, username: me, password_file: password}}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = read(Path("../etc/spoold.yaml"))
    assert config.spool.resolve() == tmp_path / "spool"
    password = config.agent.relays["default"].password
    assert password is not None
    assert password() == "secret"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "expected one line"),
        (b"\n", "expected one line"),
        (b"one\ntwo\n", "expected one line"),
        (b"nul\0\n", "expected one line"),
        (b"\xff\n", "is not UTF-8 text"),
    ],
)
def test_password_file_that_has_none_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes | None, part: str
) -> None:
    if content is not None:
        (tmp_path / "p").write_bytes(content)
    text = "spool: .\nrelays: {default: {host: localhost, username: me, password_file: p}}\n"
    password = load(tmp_path, text).agent.relays["default"].password
    assert password is not None
    with pytest.raises(SecretError, match=re.escape(f"password file {tmp_path / 'p'}: ") + ".*" + part) as caught:
        password()
    assert "one\n" not in str(caught.value)


def test_password_is_read_when_it_is_needed_so_that_it_may_change(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b" first with spaces \r\n")
    text = "spool: .\nrelays: {default: {host: localhost, username: me, password_file: p}}\n"
    one, two = (load(tmp_path, text).agent.relays["default"] for _ in range(2))
    assert one == two  # a reload that changes nothing changes no relay
    assert one.password is not None
    assert one.password() == " first with spaces "
    (tmp_path / "p").write_text("second")
    assert one.password() == "second"
    assert "second" not in repr(one)


def test_credential_is_read_from_systemd_s_folder_and_from_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "spool: .\nrelays: {default: {host: localhost, username: me, credential: ../outside}}\n"
    (tmp_path / "outside").write_text("wrong")
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "outside").write_text("right\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    password = load(tmp_path, text).agent.relays["default"].password
    assert password is not None
    assert password() == "right"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    password = load(tmp_path, text).agent.relays["default"].password
    assert password is not None
    with pytest.raises(SecretError, match=r"\$CREDENTIALS_DIRECTORY is not set"):
        password()


def test_done_jobs_can_be_kept_forever(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL + "keep_done: forever\n").agent.keep_done is None
    assert load(tmp_path, MINIMAL + "keep_done: 12h\n").agent.keep_done == 43200
    found = problems(tmp_path, MINIMAL + "keep_done: never\n")
    assert "or forever" in found["3:12"]


def test_find_takes_the_option_then_the_variable_then_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("option.yaml", {"SPOOLD_CONFIG": "variable.yaml"}) == Path("option.yaml")
    assert find(None, {"SPOOLD_CONFIG": "variable.yaml"}) == Path("variable.yaml")
    (tmp_path / "spoold.yaml").write_text(MINIMAL)
    assert find(None, {}) == Path("spoold.yaml")


def test_summaries_go_to_a_valid_address_by_the_default_relay(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).agent.notify is None
    found = load(tmp_path, MINIMAL + "notify: Ops@Bücher.example\n").agent.notify
    assert found is not None
    assert found.envelope == "Ops@xn--bcher-kva.example"
    wrong = problems(tmp_path, "spool: .\nrelays: {main: {host: localhost}}\nnotify: ops@x.example\n")
    assert wrong == {"3:9": "summary mails go by the relay named default, and there is none; there are main"}
