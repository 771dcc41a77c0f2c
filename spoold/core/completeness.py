"""When an upload is complete: the four rules of CONTRACT §3, as a function of what a look at the folder showed.

Nothing here reads a file. A look is made of facts; the verdict says by which rule the job is taken, or what it waits
for.
"""

import contextlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from spoold.core.folder import CANCEL, DEFAULT_RECIPIENTS, MANIFEST, READY, SEAL, is_content, is_hidden, is_temporary
from spoold.core.manifest import DEFAULT_MESSAGE, Manifest, check_path
from spoold.core.problem import printable
from spoold.core.seal import Seal


class Rule(StrEnum):
    SEALED = "sealed"
    READY = "ready"
    RENAMED = "renamed in"
    QUIET = "quiet"
    CANCELLED = "cancelled"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class IntakePolicy:
    """Seconds, counts and bytes as the configuration's `intake` has them."""

    settle: float = 30.0
    stale: float = 86400.0
    quiet: bool = True
    max_recipients: int = 2_000_000
    max_message: int = 50_000_000
    max_time: float = 3600.0


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at an upload showed. Names are paths from the job folder, parts joined by /.

    `files` gives each regular file's mtime in whole seconds, `specials` what each other thing is ("a symbolic link")
    that is no directory.
    """

    files: Mapping[str, int]
    specials: Mapping[str, str]
    directories: Set[str] = frozenset()
    manifest: Manifest | None = None
    manifest_problem: str | None = None
    manifest_incomplete: bool = False
    """More bytes at the end of job.yaml could cure its problem."""
    seal: Seal | None = None
    wrong_hashes: Set[str] = frozenset()
    """Sealed files whose content does not match (yet)."""
    recipients_end_in_newline: bool = True
    recipients: int | None = None
    """How many there are, None if nobody counted, or they cannot be read."""
    messages: int | None = None
    needs_shared_message: bool = False
    """Some recipient has no message of its own, as far as known."""
    renamed_in: bool = False
    unchanged_for: float = 0.0
    """Seconds since anything in the tree changed, as far as known."""
    vanished: str | None = None
    """A file that was there when the upload had been complete: since then somebody has removed it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Take it by `rule`, or wait; `look_again` in seconds, None where only a change can help."""

    rule: Rule | None = None
    waits_for: str | None = None
    look_again: float | None = None
    errors: tuple[str, ...] = field(default=())
    """Why the job is taken only to be rejected."""


def judge(look: Look, policy: IntakePolicy) -> Verdict:
    """The verdict of CONTRACT §3 on one look."""
    if CANCEL in look.files:
        return Verdict(Rule.CANCELLED)
    verdict = _judge(look, policy)
    if verdict.rule is not None:
        return verdict
    left = policy.stale - look.unchanged_for
    if left <= 0:
        return Verdict(Rule.STALE, errors=(f"the upload did not become complete: it waited for {verdict.waits_for}",))
    again = left if verdict.look_again is None else min(left, verdict.look_again)
    return Verdict(None, verdict.waits_for, again)


def _judge(look: Look, policy: IntakePolicy) -> Verdict:
    if look.seal is not None:
        return _judge_seal(look, look.seal)
    if look.vanished is not None:
        # Whoever removes an upload has begun with some file; only a seal that fits says that the rest is what is meant.
        return Verdict(
            waits_for=f"{printable(look.vanished)}, which vanished while the upload was being taken; copy it anew, or seal the rest"
        )
    declared = Rule.READY if READY in look.files else Rule.RENAMED if look.renamed_in else None
    if declared is not None:
        unmet = _unmet(look)
        return Verdict(waits_for=unmet) if unmet else Verdict(declared)
    if not policy.quiet:
        return Verdict(waits_for=f"{SEAL}, {READY}, or a rename from tmp/ (intake.quiet is off)")
    missing = _missing(look)
    if missing is not None:
        return Verdict(waits_for=missing)
    left = policy.settle - look.unchanged_for
    if left > 0:
        return Verdict(waits_for=f"{policy.settle:g} s without a change", look_again=left)
    return Verdict(Rule.QUIET)


def _judge_seal(look: Look, seal: Seal) -> Verdict:
    if seal.problem is not None:
        return Verdict(waits_for=seal.problem)
    for name in sorted(seal.hashes):
        if name in look.specials:
            return Verdict(
                Rule.SEALED,
                errors=(f"{printable(name)} is {look.specials[name]}; a job has plain files only",),
            )
        if name in look.directories:
            return Verdict(Rule.SEALED, errors=(f"{printable(name)} is a directory; {SEAL} lists it as a file",))
        if name not in look.files:
            return Verdict(waits_for=f"{printable(name)}, which {SEAL} lists")
    for name in sorted(look.files):
        if name not in seal.hashes and is_content(name) and not is_hidden(name):
            return Verdict(waits_for=f"a line for {printable(name)} in {SEAL}")
    if look.wrong_hashes:
        name = min(look.wrong_hashes)
        return Verdict(waits_for=f"the rest of {printable(name)}: its SHA-256 is not the one in {SEAL}")
    unmet = _unmet(look)
    return Verdict(waits_for=unmet) if unmet else Verdict(Rule.SEALED)


def _missing(look: Look) -> str | None:
    """What rule 4 still waits for, None if only time."""
    temporary = min((name for name in (*look.files, *look.specials) if is_temporary(name)), default=None)
    if temporary is not None:
        return f"the upload to finish ({printable(temporary)} is a temporary name)"
    # Something else where a file should be will not become one by waiting: it is taken, and the report tells.
    present = look.files.keys() | look.specials.keys() | look.directories
    if MANIFEST not in present:
        return MANIFEST
    zero = min((name for name, mtime in look.files.items() if mtime == 0 and is_content(name)), default=None)
    if zero is not None:
        return f"the rest of {printable(zero)} (its time is 0, as rsync --partial leaves it)"
    if look.manifest is None:
        # A mistake that no more bytes can cure will not go away by waiting: it is taken, and rejected.
        return f"the rest of {MANIFEST}: {look.manifest_problem}" if look.manifest_incomplete else None
    source = recipients_file(look.manifest, present)
    if source is None:
        return " or ".join(DEFAULT_RECIPIENTS)
    if source and source not in present:
        return f"{printable(source)}, which {MANIFEST} names"
    if not look.recipients_end_in_newline:
        return f"the rest of {printable(source)} (it does not end in a newline)"
    message = next((name for name in _messages(look.manifest, look.needs_shared_message) if name not in present), None)
    if message is not None:
        return message if message == DEFAULT_MESSAGE else f"{printable(message)}, which {MANIFEST} names"
    return _unmet(look)


def _messages(manifest: Manifest, needs_shared: bool) -> Iterator[str]:
    """The message files that the manifest names; the default one only where somebody gets it."""
    if needs_shared or manifest.message != DEFAULT_MESSAGE:
        yield manifest.message
    for recipient in manifest.recipients if isinstance(manifest.recipients, tuple) else ():
        # A name that no file can have is that recipient's failure, and nothing to wait for.
        with contextlib.suppress(ValueError):
            if recipient.message:
                check_path(recipient.message)
                yield recipient.message


def _unmet(look: Look) -> str | None:
    """Which count of `expect` is not met."""
    if look.manifest is None:
        return None
    expect = look.manifest.expect
    for word, wanted, found in (
        ("recipients", expect.recipients, look.recipients),
        ("messages", expect.messages, look.messages),
    ):
        if wanted is not None and found is not None and wanted != found:
            return f"{wanted} {word}, which {MANIFEST} expects; there are {found}"
    return None


def recipients_file(manifest: Manifest, present: Set[str]) -> str | None:
    """The file with the recipients, "" where the manifest lists them itself, None if no default file is there."""
    if isinstance(manifest.recipients, tuple):
        return ""
    if manifest.recipients is not None:
        return manifest.recipients
    return next((name for name in DEFAULT_RECIPIENTS if name in present), None)
