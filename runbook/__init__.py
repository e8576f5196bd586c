"""The Python package: the task runner, and the modules that the scripts run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
