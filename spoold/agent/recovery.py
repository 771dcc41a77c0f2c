"""The start after any end: makes database, folders and hidden leftovers agree. No step needs a person."""

import contextlib

from spoold.agent.event import log
from spoold.agent.intake import Intake
from spoold.agent.projector import Projector
from spoold.core.document import DocumentError
from spoold.core.manifest import parse_manifest
from spoold.core.state import UNCERTAIN_REST, OnUncertain
from spoold.storage.spooldir import FOLDERS, Spool
from spoold.storage.store import Store


def recover(spool: Spool, store: Store, intake: Intake, projector: Projector, now: float) -> None:
    """In a thread, before anything else uses the spool. `now` is POSIX seconds."""
    holding: dict[int, float | None] = {}
    for job_id in store.claimed_jobs():
        row = store.job(job_id)
        with contextlib.suppress(DocumentError):
            if row is not None and parse_manifest(row.manifest).on_uncertain is OnUncertain.HOLD:
                holding[job_id] = None
    uncertain = store.recover(now, holding, UNCERTAIN_REST)
    if uncertain:
        log("agent.recovered", uncertain=uncertain)
    intake.recover()
    for job_id, name, state in store.places():
        here = spool.find(name, FOLDERS[1:])
        if here is not None and here != state.folder:
            projector.write(job_id)
