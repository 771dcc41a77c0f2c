"""What a reader says of a document that it refuses."""

from collections.abc import Callable

import pytest

from spoold.core.document.reader import DocumentError


def refusal(read: Callable[[], object]) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        read()
    return caught.value


def texts(error: DocumentError) -> list[str]:
    return [str(problem) for problem in error.problems]


def complaints(read: Callable[[], object]) -> list[str]:
    """The problems of a document that no more bytes can cure."""
    error = refusal(read)
    assert not error.incomplete
    return texts(error)
