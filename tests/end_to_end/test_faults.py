"""Servers and device processes are killed at random moments: nothing is lost or done twice. `make faults` does so for longer."""

import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from evaluation import Catalog
from tests.end_to_end.faults import AT_ONCE, FAULTS, SHARDS, Outcome, Service, meet

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))
"""How many faults of one moment there are, before those that take long; 0 is one of each kind, and none that takes long."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc")
def test_a_job_that_meets_faults_ends_as_if_there_were_none(catalog: Catalog, tmp_path: Path) -> None:
    kinds = [AT_ONCE[number % len(AT_ONCE)] for number in range(ROUNDS or len(AT_ONCE))]
    kinds += [each for each in FAULTS if ROUNDS and each not in AT_ONCE]
    met: dict[str, list[Outcome]] = defaultdict(list)
    with Service(catalog, tmp_path) as service:
        try:
            for number, kind in enumerate(kinds):
                met[kind].append(meet(service, FAULTS[kind], number, after=random.randrange(1, SHARDS // 2)))
                print(f"{number + 1} of {len(kinds)}: {kind}: {met[kind][-1]}")
        finally:
            print(_table(met))
    harmful = [f"{kind}: {each}" for kind, outcomes in met.items() for each in outcomes if not each.harmless]
    assert not harmful, "\n".join(harmful)


def _table(met: Mapping[str, Sequence[Outcome]]) -> str:
    """What each kind of fault cost, see `Outcome`; seconds are the median and the longest."""
    lines = [
        "| fault | rounds | lost | doubled | other reports | s to resume | s to new result |",
        "|---" * 7 + "|",
    ]
    for kind, outcomes in met.items():
        counts = [len(outcomes), sum(each.lost for each in outcomes), sum(each.doubled for each in outcomes)]
        counts.append(sum(not each.equal for each in outcomes))
        seconds = [_seconds([each.resume_s for each in outcomes]), _seconds([each.new_result_s for each in outcomes])]
        lines.append(f"| {' | '.join([kind, *map(str, counts), *seconds])} |")
    return "\n".join(["", *lines])


def _seconds(found: Sequence[float]) -> str:
    return f"{sorted(found)[len(found) // 2]:.1f}, {max(found):.1f}"
