"""Run by the tests in another process: loads the registered model where the repository, Ray and MNE are absent.

Arguments: model URI, .npz with signal, channels, sfreq_hz; output .json. $MLFLOW_TRACKING_URI says where.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import sys


class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in {"ray", "mne", "picard", "s3fs"}:
            raise ModuleNotFoundError(f"{fullname} is blocked", name=fullname)


def main(model_uri: str, given: str, out: str) -> None:
    not_installed = [name for name in ("mne", "ray") if importlib.util.find_spec(name) is None]
    sys.meta_path.insert(0, Blocked())
    sys.path[:] = [entry for entry in sys.path if not entry.endswith("platform")]
    # An editable install leaves a folder emod with catalogs only: no code.
    here = importlib.util.find_spec("emod")
    assert here is None or here.origin is None, here

    import mlflow.pyfunc
    import numpy as np
    from mlflow.pyfunc.scoring_server import invocations

    model = mlflow.pyfunc.load_model(model_uri)
    arrays = np.load(given)
    inputs = {"signal": arrays["signal"], "channels": arrays["channels"]}
    frame = model.predict(inputs, params={"sfreq_hz": float(arrays["sfreq_hz"])})

    def post(signal: list[object], params: dict[str, object]) -> object:
        body = {"inputs": {"signal": signal, "channels": inputs["channels"].tolist()}, "params": params}
        try:
            answer = invocations(json.dumps(body), "application/json", model, model.metadata.get_input_schema())
        except mlflow.exceptions.MlflowException as error:
            return error.get_http_status_code(), error.message.rpartition("Error: ")[2]
        return answer.status, json.loads(answer.response)

    signal = inputs["signal"][:2].tolist()
    result = {
        "frame": frame.to_dict("list"),
        "served": post(signal, {"sfreq_hz": 128, "cleaned": False}),
        "without_rate": post(signal, {}),
        "too_few_electrodes": post([window[1:] for window in signal], {"sfreq_hz": 128.0}),
        "emod": sys.modules["emod"].__file__,
        "not_installed": not_installed,
        "blocked_loaded": sorted({"ray", "mne"} & sys.modules.keys()),
    }
    with open(out, "w") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
