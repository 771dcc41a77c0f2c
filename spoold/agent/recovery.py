"""The start after any end: makes database, folders and hidden leftovers agree. No step needs a person."""

import contextlib
from collections.abc import Callable
from zoneinfo import ZoneInfo

from spoold.core.document.reader import DocumentError
from spoold.core.state import UNCERTAIN_REST, OnUncertain
from spoold.event import log
from spoold.intake.scan import Intake
from spoold.report.projector import Projector
from spoold.storage.manifest import manifest_of
from spoold.storage.spooldir import FOLDERS, Spool
from spoold.storage.store import Store


def recover(
    spool: Spool,
    store: Store,
    intake: Intake,
    projector: Projector,
    now: float,
    zone: ZoneInfo,
    goes_on: Callable[[], bool],
) -> None:
    """In a thread, before anything else uses the spool. `now` is POSIX seconds, `zone` the agent's; once it no longer
    `goes_on`, folders that stand in the wrong place are left to the next start.
    """
    holding: dict[int, float | None] = {}
    for job_id in store.claimed_jobs():
        row = store.job(job_id)
        with contextlib.suppress(DocumentError):
            if row is not None and manifest_of(row, zone).on_uncertain is OnUncertain.HOLD:
                holding[job_id] = None
    uncertain = store.recover(now, holding, UNCERTAIN_REST)
    if uncertain:
        log("agent.recovered", uncertain=uncertain)
    late = intake.recover()
    # Three listings instead of some looks for every job there is. Several folders of one name are nobody's doing but a
    # person's; the first is meant, as in `Spool.find`.
    stand: dict[str, str] = {}
    for folder in FOLDERS[1:]:
        for name in spool.jobs(folder):
            stand.setdefault(name, folder)
    for job_id, name, state in store.places():
        if stand.get(name, state.folder) != state.folder:
            if not goes_on():
                return
            try:
                projector.write(job_id)
            except OSError:
                late.append(job_id)  # told of
    projector.refresh(late)
