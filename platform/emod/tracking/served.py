"""The file MLflow runs to build the served model (models from code): its calling conventions around a ``Servable``.

No mathematics here. Executing it declares the model, so it is named by path in ``registry.py`` and imported nowhere.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from emod.tracking.servable import load_servable


class _Answers(pd.DataFrame):  # type: ignore[misc]
    """Rows whose NaN becomes null where MLflow makes JSON of them, which has no NaN."""

    def to_dict(self, *args: Any, **kwargs: Any) -> Any:
        plain = pd.DataFrame(self)
        lists = plain["embedding"].map(lambda row: [None if math.isnan(number) else number for number in row])
        plain = plain.astype(object).where(plain.notna(), None).assign(embedding=lists)
        return plain.to_dict(*args, **kwargs)


class _Calls:
    """Kept apart from PythonModel, which would ask for a type hint on predict that it can make a schema of.

    It has none for named tensors; the signature is written by hand in ``registry.py``.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read weights and card; called once by MLflow."""
        self._servable = load_servable(Path(context.artifacts["emod"]))

    def predict(  # type: ignore[no-untyped-def]
        self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predict.

        Args:
            context: Unused.
            model_input: {"signal": (B, C, T) microvolt, "channels": (C,) names}.
            params: ``sfreq_hz``, required although MLflow wants a default for it (0); ``cleaned``.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, which the scoring server answers with HTTP 400.
        """
        given = params or {}
        try:
            return _Answers(
                self._servable.predict(
                    model_input["signal"],
                    list(model_input["channels"]),
                    sfreq_hz=float(given.get("sfreq_hz", 0.0)),
                    cleaned=bool(given.get("cleaned", False)),
                )
            )
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None


class EmodPyfunc(_Calls, PythonModel):  # type: ignore[misc]
    """Named arrays and parameters in, one row per window out; see ``Servable.predict``."""


set_model(EmodPyfunc())
