"""What a report states of deployment: how costs were measured, what was measured at the end, and who broke a limit."""
from collections.abc import Sequence

from nas.remeasure import DeviceFigures, timed_names
from nas.results import broken_limits, complete, front_of
from nas.search_config import SearchConfig
from nas.settings import OBJECTIVES
from nas.trial_record import TrialRecord


def lines(records: Sequence[TrialRecord], config: SearchConfig, device: DeviceFigures | None, *, predicts: bool) -> list[str]:
    """A block of the page each.  predicts: were latencies predicted in the search?"""
    front, names = front_of(records, config), timed_names(config)
    return [*_left_out(records, config), *_latency(front, names, device, predicts), *_methods(front)]


def _left_out(records: Sequence[TrialRecord], config: SearchConfig) -> list[str]:
    out = []
    for r in complete(records):
        if broken := broken_limits(r, config):
            before = ", ".join(f"{name} {r.first_costs[name]:.4g}" for name in r.remeasured.costs if name in r.first_costs)
            out.append(f"trial {r.number} is left out of the front: {', '.join(broken)}"
                       + (f" (in the search: {before})" if before else ""))
    return out


def _latency(front: Sequence[TrialRecord], names: Sequence[str], device: DeviceFigures | None, predicts: bool) -> list[str]:
    """Where the latencies of the front come from."""
    if not names or not front:
        return []
    measured = [r for r in front if device and r.number in device.rows]
    out = []
    if device and measured:
        unsteady = [str(r.number) for r in measured if not device.rows[r.number].steady]
        off = [abs(r.first_costs[name] / ms - 1) for r in measured for name, ms in r.remeasured.costs.items()
               if name in r.first_costs]
        where = ", ".join(filter(None, [*device.machine.values(), f"threads={device.threads}"]))
        before = f"; {'predictions' if predicts else 'figures'} of the search were off by {100 * max(off):.2g} % at most"
        out.append(f"Latency of the front was measured when the study had ended ({where}), each network in turn with a "
                   f"reference{before if off else ''}.")
        if unsteady:
            out.append(f"Times of trials {', '.join(unsteady)} varied too much to compare: something else ran on the machine.")
    if missing := [str(r.number) for r in front if r not in measured]:
        how = "predicted, not measured" if predicts else "measured beside other trials"
        out.append(f"Latency of trials {', '.join(missing)} is {how}: limits on it may not hold. The search's own command "
                   "measures it when the study has ended.")
    return out


def _methods(front: Sequence[TrialRecord]) -> list[str]:
    """How costs of deployment were measured, each way once."""
    ways = dict.fromkeys((name, how) for r in front for name, how in r.methods.items())
    return [f"{name} ({OBJECTIVES[name][2]}): {how}" for name, how in ways]
