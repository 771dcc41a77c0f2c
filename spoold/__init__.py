"""spoold: a file-drop mail agent. For applications: `write_job`, see `spoold.job`."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["JobError", "SpoolError", "__version__", "write_job"]

if TYPE_CHECKING:
    from spoold.job import JobError, SpoolError, write_job


def __getattr__(name: str) -> Any:
    """The function for applications, imported when it is asked for: the commands do not pay for it."""
    if name in __all__:
        from spoold import job

        return getattr(job, name)
    raise AttributeError(f"module 'spoold' has no attribute {name!r}")
