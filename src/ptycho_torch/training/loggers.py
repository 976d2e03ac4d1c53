"""Lightning's loggers, for those who follow their runs elsewhere: TensorBoard and MLflow, where they are installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ptycho_torch.errors import DependencyError

__all__ = ["logger_of"]


def logger_of(name: str, folder: Path | None) -> Any:
    """Return one of Lightning's loggers, or False for none.

    Parameters
    ----------
    name : {"none", "tensorboard", "mlflow"}
    folder : Path, optional
        Of the run; default: the current one. MLflow goes to ``MLFLOW_TRACKING_URI`` where that is set.

    Raises
    ------
    DependencyError
        When what it needs is not installed.

    Examples
    --------
    >>> logger_of("none", None)
    False
    """
    if name == "none":
        return False
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

    where = Path.cwd() if folder is None else folder
    try:
        if name == "tensorboard":
            return TensorBoardLogger(where, name="tensorboard", version="")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            import sqlalchemy  # noqa: F401  # mlflow-skinny comes without, and fails only when it logs

            uri = f"sqlite:///{(where / 'mlflow.db').absolute()}"
        return MLFlowLogger(experiment_name="ptychopinn", run_name=where.name, tracking_uri=uri)
    except ImportError as error:
        raise DependencyError(f"--logger {name} needs {name} ({error}): pip install {name}") from error
