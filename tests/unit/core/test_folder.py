"""Which names in a job's folder mean what."""

import pytest

from spoold.core.folder import is_content, is_hidden, is_temporary


@pytest.mark.parametrize(
    "name",
    [".message.eml.Ab3dE9", "messages/.1.eml.aaaaaa", ".~tmp~/x", ".rsync-partial/x", ".rsync-tmp/x", "a.eml.filepart",
     "a.part", "a.partial", ".syncthing.a.eml.tmp", "~syncthing~a.eml.tmp", ".in.a.eml."],
)  # fmt: skip
def test_names_of_transfers_in_progress_are_known(name: str) -> None:
    assert is_temporary(name)


@pytest.mark.parametrize(
    "name",
    ["message.eml", "messages/0001.eml", "recipients.csv", "job.yaml", ".DS_Store", ".gitignore", "part", "a.b.Ab3dE9"],
)
def test_plain_names_are_not_taken_for_temporary_ones(name: str) -> None:
    assert not is_temporary(name)


def test_content_and_hidden_names() -> None:
    assert all(is_content(name) for name in ("job.yaml", "a/READY", "a/report", ".x"))
    assert not any(
        is_content(name) for name in ("READY", "CANCEL", "HOLD", "RETRY", "SHA256SUMS", "report", "report/x")
    )
    assert is_hidden(".a")
    assert is_hidden("a/.b")
    assert not is_hidden("a.b/c.d")
