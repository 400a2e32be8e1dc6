"""Which trials keep what they would be resumed from: last.pt, several times the size of the encoder."""
import contextlib
import shutil
from collections.abc import Iterable

from optuna.trial import TrialState

from nas.trial_record import TrialRecord

OVER = (TrialState.COMPLETE, TrialState.PRUNED)  # never trained further; one that failed is left as it is


def remove_checkpoints(study: str, records: Iterable[TrialRecord]) -> list[int]:
    """Delete last.pt, or last/, of trials that are over, where it is on this machine. Encoders, methods and metrics stay.

    What cannot be deleted is left.  → their numbers
    """
    over = [r for r in records if r.state in OVER]
    for folder in (folder for r in over for folder in r.run_folders(study)):
        with contextlib.suppress(OSError):  # another user's, a file system that is read-only
            (folder / "last.pt").unlink(missing_ok=True)
        shutil.rmtree(folder / "last", ignore_errors=True)
    return [r.number for r in over]
