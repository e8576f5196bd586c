"""The machine: GPUs, memory, the virtual environment, and the checks before a start."""
