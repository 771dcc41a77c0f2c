"""report/index.html and SPOOL/index.html: the reports as pages for people.

Each is one file that asks for nothing else and says all without JavaScript. Every string in it may come from an
attacker, so there are three walls: all text passes `printable` and Jinja's autoescape on its way out, no text ever stands
in a script, a style or an attribute that takes code, and the page's own policy (CSP level 2) lets only
the one script and the one style sheet run whose hashes it names.
"""

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Self

from markupsafe import Markup

from spoold import __version__
from spoold.core.moment import for_people
from spoold.core.problem import printable
from spoold.core.quantity import format_duration
from spoold.core.state import RecipientState
from spoold.report.agent import AgentState
from spoold.report.chart import ORDER, stacked, time_chart
from spoold.report.page_row import bar, clock, percent, recipient_rows, remark, text
from spoold.report.statistics import BOUNCED, REPLIES
from spoold.report.status import Status
from spoold.report.timeline import Timeline
from spoold.storage.ledger import Ledger, RecipientRow, ReplyTally

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "index.html"
RECIPIENTS = 5000
"""Rows of recipients in a page; the others are in recipients.csv."""
DOMAINS = 15
_REPLIES = 40
_PROBLEMS = 50
_TEXT = 1000
_PIECE = 1 << 16

#: PowerMTA's bounce categories in plain words.
_CATEGORIES = {
    "bad-mailbox": "the mailbox does not exist",
    "inactive-mailbox": "the mailbox is disabled",
    "quota-issues": "the mailbox is full",
    "bad-domain": "the domain does not exist or takes no mail",
    "invalid-sender": "the sender address was refused",
    "spam-related": "taken for spam, or the sender's reputation",
    "virus-related": "taken for malware",
    "content-related": "the message itself was refused",
    "policy-related": "refused by a rule of the receiving side",
    "relaying-issues": "the relay does not send for this sender",
    "routing-errors": "no way to the receiving server",
    "no-answer-from-host": "the receiving server does not answer",
    "bad-connection": "the connection broke",
    "bad-configuration": "a server is set up wrongly",
    "protocol-errors": "the servers did not understand each other",
    "message-expired": "gave up: the time for trying was over",
    "other": "no further reason given",
}


@dataclass(frozen=True, slots=True)
class JobView:
    """All that a job's page shows. `recipients` are at most `RECIPIENTS`, `domains` the largest."""

    status: Status
    domains: Sequence[tuple[str, Mapping[RecipientState, int]]]
    replies: Sequence[ReplyTally]
    timeline: Timeline
    recipients: Iterable[RecipientRow]

    @classmethod
    def of(cls, status: Status, ledger: Ledger) -> Self:
        """The view of a job as the database has it now."""
        job_id = status.job.id
        return cls(
            status,
            ledger.domains(job_id, DOMAINS),
            ledger.replies(job_id, REPLIES),
            Timeline.of(ledger, job_id, status.zone),
            islice(ledger.recipients(job_id), RECIPIENTS),
        )


def prepare() -> None:
    """Compile the templates, which takes longer than a page, unless they are compiled already."""
    for name in ("job.html", "spool.html"):
        _environment().get_template(name)


def job_page(view: JobView) -> Iterator[bytes]:
    """The page of one job, in pieces."""
    status = view.status
    zone = status.zone
    categories: Counter[str] = Counter()
    for reply in view.replies:
        if reply.result in BOUNCED:
            categories[reply.category or "other"] += reply.count
    reasons = [reply for reply in view.replies if reply.result != RecipientState.SENT.label]
    listed = sum(sum(counts.values()) for _, counts in view.domains)
    template = _environment().get_template("job.html")
    return _pieces(
        template.generate(
            status=status,
            job=status.job,
            remark=remark(status.job, zone),
            chart=time_chart(view.timeline, zone),
            domains=view.domains,
            other_domains=status.job.total - listed,
            categories=categories.most_common(),
            meaning=_CATEGORIES,
            reasons=reasons[:_REPLIES],
            more_reasons=len(reasons) > _REPLIES,
            problems=_PROBLEMS,
            recipients=recipient_rows(view.recipients, zone),
            limit=RECIPIENTS,
            zone=_zone_name(status.now, zone),
            people=functools.partial(for_people, zone=zone),
            duration=format_duration,
            stacked=stacked,
            states=RecipientState,
            order=ORDER,
        )
    )


def spool_page(agent: AgentState, live: Markup, done: Markup, older: bool, zone: tzinfo) -> Iterator[bytes]:
    """The page of the whole spool; `live` and `done` are `job_rows`, `older`: there are more that ended."""
    template = _environment().get_template("spool.html")
    return _pieces(
        template.generate(
            agent=agent,
            live=live,
            done=done,
            older=older,
            recipients=agent.jobs.recipients,
            order=ORDER,
            zone=_zone_name(agent.now, zone),
            people=functools.partial(for_people, zone=zone),
            clock=functools.partial(clock, zone=zone),
        )
    )


def _pieces(parts: Iterable[str]) -> Iterator[bytes]:
    """Few large pieces of many small ones."""
    held: list[str] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _PIECE:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


def _zone_name(now: float, zone: tzinfo) -> str:
    return getattr(zone, "key", None) or datetime.fromtimestamp(now, zone).tzname() or "UTC"


def _shown(value: object) -> object:
    """Jinja calls it with everything that a template writes out, before escaping."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, _TEXT)
    return "" if value is None else value


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: only the agent writes pages

    style, script = _asset("page.css"), _asset("page.js")
    environment = Environment(
        loader=PackageLoader("spoold.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["percent"] = percent
    environment.filters["text"] = text
    environment.globals.update(
        version=__version__,
        bar=lambda *arguments: Markup(bar(*arguments)),  # noqa: S704 - figures and our own words
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'",
    )
    return environment


def _asset(name: str) -> str:
    return resources.files("spoold.report").joinpath("template", name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
