"""Reads copies of corpora with TorchEEG's own code and prints what it finds, one JSON line a trial.

Run by another interpreter: TorchEEG 1.1.3 wants a scipy of 2022. It imports nothing of the platform.
Usage: python read_with_torcheeg.py NAME ROOT
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torcheeg.datasets import (
    AMIGOSDataset,
    DEAPDataset,
    DREAMERDataset,
    FACEDDataset,
    MAHNOBDataset,
    SEEDDataset,
    SEEDIVDataset,
    SEEDVDataset,
)

WHOLE = {"chunk_size": -1}


def records(name: str, root: Path) -> Iterator[dict[str, Any]]:
    """TorchEEG's records, a whole trial each; baselines carry no label and are left out."""
    if name == "deap":
        for path in sorted((root / "data_preprocessed_python").iterdir()):
            yield from DEAPDataset.process_record(path.name, root_path=str(path.parent), num_baseline=1,
                                                  baseline_chunk_size=384, **WHOLE)  # fmt: skip
    elif name == "dreamer":
        for subject in (0, 1):
            yield from DREAMERDataset.process_record(subject, mat_path=str(root / "DREAMER.mat"), **WHOLE)
    elif name == "amigos":
        for path in sorted((root / "data_preprocessed").rglob("*.mat")):
            yield from AMIGOSDataset.process_record(path.name, root_path=str(path.parent), num_trial=-1,
                                                    num_baseline=1, baseline_chunk_size=640, **WHOLE)  # fmt: skip
    elif name == "seed":
        for path in sorted((root / "Preprocessed_EEG").glob("*_*.mat")):
            yield from SEEDDataset.process_record(path.name, root_path=str(path.parent), **WHOLE)
    elif name == "seed_iv":
        for path in sorted((root / "eeg_raw_data").rglob("*.mat")):
            for record in SEEDIVDataset.process_record(str(path), **WHOLE):
                record["info"]["session"] = path.parent.name
                yield record
    elif name == "seed_v":
        for path in sorted((root / "EEG_raw").glob("*.cnt")):
            yield from SEEDVDataset.process_record(str(path), **WHOLE)
    elif name == "faced":
        for path in sorted((root / "Processed_data").glob("*.pkl")):
            yield from FACEDDataset.process_record(path.name, root_path=str(path.parent), **WHOLE)
    elif name == "mahnob_hci":
        folders = sorted(path.name for path in (root / "Sessions").iterdir())
        for folder in folders:
            for record in MAHNOBDataset.process_record([folder], root_path=str(root / "Sessions"), **WHOLE):
                if "info" in record:
                    record["info"]["folder"] = folder
                yield record
    else:
        raise SystemExit(f"TorchEEG reads no {name}")


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        found = [record for record in records(sys.argv[1], Path(sys.argv[2])) if "info" in record]
    for record in found:
        eeg = record["eeg"]
        row = {key: value.item() if hasattr(value, "item") else value for key, value in record["info"].items()}
        row |= {"shape": eeg.shape, "early": eeg[:, 37].tolist(), "last": eeg[:, -1].tolist()}
        print(json.dumps(row))
