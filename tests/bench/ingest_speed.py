"""Ingest on one and two Ray workers against the bare loop in one and two processes, on the same files of one run.

Also the greatest resident memory of any worker on the way. Starting Ray is not counted, as starting Python is not.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import ray
import ray.data

from emod.catalog import load_experiment
from emod.ingest import ingest, plan_ingest
from emod.workflow import simulate_corpora
from tests.bench.ratio import Figure, seconds

BARE = Path(__file__).with_name("bare_mne.py")


def measure(folder: Path, recordings: int = 4, time_scale: float = 1.0) -> list[Figure]:
    """The two ratios of speed, and the memory bound on these recordings."""
    data = folder / "seed_iv"
    experiment = load_experiment(
        "pretrain",
        [
            "corpora=[seed_iv]",
            f"addresses.data.seed_iv={data}",
            f"addresses.store={folder / 'store'}",
            f"simulate.seed_iv.subjects={recordings}",
            "simulate.seed_iv.sessions=1",
            f"simulate.seed_iv.time_scale={time_scale}",
        ],
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    simulate_corpora(experiment)
    files = sorted(str(path) for path in data.rglob("*.mat"))
    # How long a decomposition takes to converge is chance: with the same session for every subject the work divides.
    for path in files[1:]:
        shutil.copyfile(files[0], path)

    def bare(processes: int) -> None:
        shares = [files[rank::processes] for rank in range(processes)]
        running = [
            subprocess.Popen([sys.executable, BARE, folder / f"bare{processes}", *share], env=environment)
            for share in shares
        ]
        assert [process.wait() for process in running] == [0] * processes

    took: dict[tuple[str, int], float] = {}
    peak_mb = 0.0
    for workers in (1, 2):
        took["bare", workers] = seconds(lambda workers=workers: bare(workers))
        shutil.rmtree(folder / "store", ignore_errors=True)
        ray.init(address="local", num_cpus=workers, include_dashboard=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        with _Peak() as peak:
            took["ingest", workers] = seconds(lambda: ingest(experiment, plan_ingest(experiment)))
        ray.shutdown()
        peak_mb = max(peak_mb, peak.mb)
    decoded_mb = max(os.path.getsize(path) for path in files) / 1e6  # stored as float64 without compression
    detail = json.dumps({f"{what} x{n}": round(value, 1) for (what, n), value in took.items()})
    speed_up = {what: took[what, 1] / took[what, 2] for what in ("bare", "ingest")}
    return [
        Figure("ingest / bare MNE loop, 1 worker", took["bare", 1] / took["ingest", 1], 0.85, True, detail),
        Figure(
            "speed-up of 2 workers: ingest / bare",
            speed_up["ingest"] / speed_up["bare"],
            0.9,
            True,
            f"ingest {speed_up['ingest']:.2f}, bare {speed_up['bare']:.2f}",
        ),
        Figure(
            "worker's peak / (3 x decoded + 600 MB)",
            peak_mb / (3 * decoded_mb + 600),
            1.0,
            False,
            f"peak {peak_mb:.0f} MB, one recording decoded {decoded_mb:.0f} MB",
        ),
    ]


class _Peak:
    """Greatest resident size that any of Ray's task workers reached while this was open, in MB."""

    mb = 0.0

    def __enter__(self) -> _Peak:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if not (process / "cmdline").read_bytes().startswith(b"ray::"):
                        continue
                    lines = (process / "status").read_text().splitlines()
                except OSError:  # it ended meanwhile
                    continue
                peak_kb = max((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), default=0)
                self.mb = max(self.mb, peak_kb / 1000)
