"""The configuration file, `spoold.yaml` (CONTRACT §7): read here and nowhere else, and turned into what the parts take.

Its keys are `setting`'s."""

import contextlib
import ipaddress
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from spoold.agent.configuration import Configuration
from spoold.cli.setting import ConfigForm, RelaySection
from spoold.core.completeness import IntakePolicy
from spoold.core.document.form import validate
from spoold.core.document.reader import Document, DocumentError, load
from spoold.core.manifest import DEFAULT_RELAY
from spoold.core.problem import Problem, UserError, printable, shown
from spoold.core.terms import Defaults
from spoold.delivery.limiter import Limits
from spoold.smtp.relay import Relay, SecretError, Security, Timeouts

PLACES = ("spoold.yaml", "/etc/spoold/spoold.yaml")
_PORTS = {Security.NONE: 25, Security.STARTTLS: 587, Security.TLS: 465}
_SECRET_LIMIT = 4096


class ConfigError(UserError):
    """The configuration cannot be used; the text has one line a problem."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class LogSettings:
    format: str
    level: str


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that was read; `path` is its file, `spool` the spool that it names."""

    path: Path
    spool: Path
    log: LogSettings
    agent: Configuration


def find(given: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration file: `--config`, `$SPOOLD_CONFIG`, ./spoold.yaml, /etc/spoold/spoold.yaml. Raises ConfigError."""
    named = given or environ.get("SPOOLD_CONFIG")
    if named:
        return Path(named)
    for place in PLACES:
        if Path(place).is_file():
            return Path(place)
    raise ConfigError(
        f"no configuration: expected --config FILE, $SPOOLD_CONFIG, {' or '.join(PLACES)}; `spoold init SPOOL` writes one"
    )


def read(path: Path) -> Config:
    """The configuration in the file `path`. Raises ConfigError with every problem."""
    document = _load(path)
    base = path.resolve().parent
    problems: list[Problem] = []
    try:
        form = validate(document, ConfigForm)
    except DocumentError as error:
        # What depends on several keys is told beside what is wrong with single ones.
        problems = list(error.problems)
        for name, relay in _readable_relays(document).items():
            _check_relay(name, relay, base, document, problems)
        raise ConfigError("\n".join(map(str, sorted(problems, key=_position)))) from None
    for name, relay in form.relays.items():
        _check_relay(name, relay, base, document, problems)
    if form.notify is not None and DEFAULT_RELAY not in form.relays:
        text = (
            f"summary mails go by the relay named {DEFAULT_RELAY}, and there is none; there are {_names(form.relays)}"
        )
        problems.append(Problem(document.place(("notify",)), text))
    if problems:
        raise ConfigError("\n".join(map(str, sorted(problems, key=_position))))
    relays = {name: _relay(name, relay, base) for name, relay in form.relays.items()}
    agent = Configuration(
        relays=relays,
        defaults=Defaults(form.timezone, form.retry, form.windows),
        intake=_policy(form),
        keep_done=form.keep_done,
        limits=Limits(
            form.rate, {name: relay.rate for name, relay in form.relays.items() if relay.rate}, form.domain_rates
        ),
        notify=form.notify,
        csv_formulas=form.report.csv_formulas == "keep",
    )
    return Config(path, base / form.spool, LogSettings(form.log.format, form.log.level), agent)


def place(path: Path) -> tuple[Path, IntakePolicy]:
    """The spool that the file `path` names, and what its agent takes: all that who drops jobs needs to know.

    Unlike `read` it does not look at what only the agent's user may see, such as a relay's files. Raises ConfigError.
    """
    try:
        form = validate(_load(path), ConfigForm)
    except DocumentError as error:
        raise ConfigError(str(error)) from None
    return path.resolve().parent / form.spool, _policy(form)


def _load(path: Path) -> Document:
    try:
        return load(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ConfigError(str(error)) from None


def _policy(form: ConfigForm) -> IntakePolicy:
    intake = form.intake
    return IntakePolicy(
        intake.settle, intake.stale, intake.quiet, intake.max_recipients, intake.max_message, intake.max_time
    )


def _relay_table(document: Document) -> dict[str, str | None]:
    """Every relay's fallback, as far as the document says, by the relay's name."""
    relays = document.value.get("relays")
    table: dict[str, str | None] = {}
    for name, relay in relays.items() if isinstance(relays, dict) else ():
        fallback = relay.get("fallback") if isinstance(relay, dict) else None
        table[name] = fallback if isinstance(fallback, str) else None
    return table


def _readable_relays(document: Document) -> dict[str, RelaySection]:
    """The relays that have no mistake in themselves, in a document that has some."""
    found = {}
    value = document.value.get("relays")
    for name, relay in value.items() if isinstance(value, dict) else ():
        with contextlib.suppress(ValidationError):
            found[name] = RelaySection.model_validate(relay)
    return found


def _names(relays: Iterable[str]) -> str:
    return ", ".join(map(printable, relays))


def _position(problem: Problem) -> tuple[int, ...]:
    return tuple(int(number) for number in problem.where.rsplit(":", 2)[1:])


def _check_relay(name: str, relay: RelaySection, base: Path, document: Document, problems: list[Problem]) -> None:
    """Append what does not fit together in one relay's settings, and with the others'."""
    others = _relay_table(document)

    def wrong(key: str, text: str) -> None:
        problems.append(Problem(document.place(("relays", name, key)), text))

    if relay.password_file and relay.credential:
        wrong("credential", "expected either password_file or credential, not both")
    secret = relay.password_file or relay.credential
    if relay.username and not secret:
        wrong("username", "a username needs a password_file or a credential")
    if secret and not relay.username:
        wrong("password_file" if relay.password_file else "credential", "a password needs a username")
    if relay.username and relay.security == "none" and not _is_local(relay.host):
        wrong("security", "a password is not sent in clear to another machine: expected starttls or tls")
    if relay.ca_file is not None and not (base / relay.ca_file).is_file():
        wrong("ca_file", f"no such file: {base / relay.ca_file}")
    seen, following = {name}, relay.fallback
    while following is not None:
        if following not in others:
            wrong("fallback", f"no relay {shown(following)}; there are {_names(others)}")
            break
        if following in seen:
            wrong("fallback", f"the fallbacks lead in a circle, back to {following}")
            break
        seen.add(following)
        following = others[following]


def _relay(name: str, relay: RelaySection, base: Path) -> Relay:
    security = Security(relay.security)
    password: Callable[[], str] | None = None
    if relay.password_file:
        password = SecretFile(base / relay.password_file)
    elif relay.credential:
        password = _credential(relay.credential)
    return Relay(
        name=name,
        host=relay.host,
        port=relay.port or _PORTS[security],
        security=security,
        ca_file=None if relay.ca_file is None else str(base / relay.ca_file),
        username=relay.username,
        password=password,
        connections=relay.connections,
        recipients_per_message=relay.recipients_per_message,
        fallback=relay.fallback,
        timeouts=Timeouts(relay.timeouts.connect, relay.timeouts.command, relay.timeouts.data, relay.timeouts.final),
    )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class SecretFile:
    """Reads a password when it is needed, so that it may change; equal to another one of the same file."""

    path: Path

    def __call__(self) -> str:
        try:
            with self.path.open("rb") as file:
                data = file.read(_SECRET_LIMIT)
        except OSError as error:
            raise SecretError(f"password file {self.path}: cannot be read: {error.strerror}") from None
        try:
            secret = data.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise SecretError(f"password file {self.path}: is not UTF-8 text") from None
        if not secret or "\n" in secret or "\0" in secret:
            raise SecretError(f"password file {self.path}: expected one line with the password")
        return secret

    def problem(self) -> str | None:
        """What `spoold check` says of the file's mode."""
        try:
            mode = self.path.stat().st_mode
        except OSError:
            return None
        return f"{self.path} can be read by everybody" if mode & stat.S_IROTH else None


def _credential(name: str) -> Callable[[], str]:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return _NoCredentials(name)
    return SecretFile(Path(folder) / Path(name).name)


@dataclass(frozen=True, slots=True)
class _NoCredentials:
    name: str

    def __call__(self) -> str:
        raise SecretError(f"credential {self.name}: $CREDENTIALS_DIRECTORY is not set; is LoadCredential= in the unit?")
