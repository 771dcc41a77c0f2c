"""What the reports of a job show of its manifest."""

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from spoold.core.document.reader import DocumentError
from spoold.core.problem import printable
from spoold.storage.manifest import manifest_of
from spoold.storage.record import JobRow


@dataclass(frozen=True, slots=True)
class Heading:
    """`zone` is the one that the job's report is written in."""

    description: str
    sender: str
    zone: ZoneInfo


def heading_of(job: JobRow, zone: ZoneInfo) -> Heading:
    """The heading of a job; an empty one for a rejected job whose manifest cannot be read. `zone` is the agent's."""
    try:
        manifest = manifest_of(job, zone)
    except DocumentError:
        return Heading("", "", zone)
    name = manifest.timing.timezone
    return Heading(printable(manifest.description, 500), manifest.sender, ZoneInfo(name) if name else zone)
