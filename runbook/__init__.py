"""What the steps need beyond a command: settings, checks, order, explanations."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
