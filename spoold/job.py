"""For applications: a job written into a spool from Python, correctly.

    from spoold import write_job

    name = write_job(
        "/var/spool/spoold",
        sender="news@example.com",
        message=Path("message.eml"),
        recipients=[{"address": "ada@example.org", "name": "Ada Lovelace"}, "bob@example.net"],
        manifest={"description": "Autumn sale", "rate": "1200/h"},
    )

The job is on disk and in `new/`, whole, when the function returns; before that the agent sees nothing of it. What a
recipient's address or message lacks is told in the job's report, as for any other upload. This module needs no agent
and no configuration; the caller needs the right to write to the spool's `tmp/` and `new/`.
"""

import csv
import io
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping

from spoold.core.document.reader import DocumentError
from spoold.core.document.writer import manifest_text
from spoold.core.folder import MANIFEST
from spoold.core.manifest import DEFAULT_MESSAGE, check_path, parse_manifest
from spoold.core.problem import UserError, printable
from spoold.storage.draft import Draft, NameTakenError, entrance
from spoold.storage.files import CHUNK, Files
from spoold.storage.spooldir import SpoolError, valid_name

__all__ = ["JobError", "SpoolError", "write_job"]

RECIPIENTS = "recipients.csv"
_NAME_FORM = "letters, digits and . _ @ + -, at most 100, not beginning with . or -"
_ROWS = 1000

#: One recipient: an address, or a mapping with `address`, optionally `message`, and columns to be kept for the report.
Recipient = str | Mapping[str, str]
#: A message as bytes, or the path of a file with one.
Message = bytes | os.PathLike[str]


class JobError(UserError, ValueError):
    """The job cannot be written like this; the text has one line a problem."""


def write_job(
    spool: str | os.PathLike[str],
    name: str | None = None,
    *,
    sender: str,
    message: Message | Iterable[tuple[str, Message]],
    recipients: Iterable[Recipient] = (),
    manifest: Mapping[str, object] | None = None,
) -> str:
    """Write a job into the spool and return its name, once it is durable in `new/`.

    `spool` is the spool's folder. `name` is the job's (made up if None). `sender` is the envelope sender, "" the null
    sender. `message` is one message for all `recipients`, or pairs of an address and its own message, without
    `recipients`. `manifest` has the other keys of job.yaml, with the values that they have there; a moment may be a
    datetime. Iterables are read once, and memory does not grow with them.

    Raises JobError for what is wrong with name or manifest and for a name that waits in `new/` already, SpoolError
    where there is no spool, OSError where it cannot be written. The very same content as that of a job that the agent
    knows already is not sent again, unless `manifest` has `allow_duplicate: true`.
    """
    name = made_up_name("job") if name is None else name
    if not valid_name(name):
        raise JobError(f"the name '{printable(name)}' cannot be a job's: expected {_NAME_FORM}")
    source = _manifest({"sender": sender, **(manifest or {})})
    files = Files()
    with entrance(files, os.fspath(spool)) as (tmp, new), Draft(files, tmp, name) as draft:
        if isinstance(message, bytes | os.PathLike):
            draft.add((DEFAULT_MESSAGE,), _chunks(message))
            draft.add((RECIPIENTS,), recipients_csv(recipients))
        else:
            draft.add((RECIPIENTS,), recipients_csv(_add_messages(draft, message, recipients)))
        draft.add((MANIFEST,), [source])
        draft.seal()
        try:
            draft.publish(new, name)
        except NameTakenError:
            raise JobError(f"new/{name}: an upload of this name waits there already; expected another name") from None
    return name


def made_up_name(prefix: str) -> str:
    """A name that no other job has: the moment, and chance."""
    return f"{prefix}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"


def recipients_csv(recipients: Iterable[Recipient]) -> Iterator[bytes]:
    """The text of a recipients.csv with the columns of the first recipient. Raises JobError.

    A later recipient may lack columns, not have others.
    """
    buffer = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for number, recipient in enumerate(recipients, 1):
        row = {"address": recipient} if isinstance(recipient, str) else recipient
        if writer is None:
            columns = list(row) if "address" in row else ["address", *row]
            writer = csv.DictWriter(buffer, columns, restval="")
            writer.writeheader()
        if "address" not in row:
            raise JobError(f"recipient {number}: no 'address'; expected one")
        try:
            writer.writerow(row)
        except ValueError:
            others = ", ".join(f"'{printable(key)}'" for key in row.keys() - set(writer.fieldnames))
            raise JobError(f"recipient {number}: {others}: the first recipient does not have this column") from None
        if number % _ROWS == 0:
            yield _encoded(buffer.getvalue())
            buffer.seek(0)
            buffer.truncate()
    if writer is None:
        raise JobError("no recipients; expected at least one")
    yield _encoded(buffer.getvalue())


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise JobError("a recipient's text is not valid Unicode") from None


def _manifest(values: Mapping[str, object]) -> bytes:
    for key, default in (("message", DEFAULT_MESSAGE), ("recipients", RECIPIENTS)):
        if values.get(key, default) != default:
            raise JobError(f"job.yaml: {key}: give it to the function instead")
    try:
        source = manifest_text(values).encode()
        parse_manifest(source)
    except DocumentError as error:
        raise JobError(str(error)) from None
    except ValueError as error:
        raise JobError(f"job.yaml: {error}") from None
    return source


def _add_messages(
    draft: Draft, messages: Iterable[tuple[str, Message]], recipients: Iterable[Recipient]
) -> Iterator[Recipient]:
    for _ in recipients:
        raise JobError("recipients: every message brings its own recipient; expected none beside them")
    for number, (address, message) in enumerate(messages, 1):
        path = f"messages/{number:06}.eml"
        draft.add(check_path(path), _chunks(message))
        yield {"address": address, "message": path}


def _chunks(message: Message) -> Iterator[bytes]:
    if isinstance(message, bytes):
        yield message
        return
    with open(message, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
