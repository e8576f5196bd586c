"""The plan: which GPU, share of its memory and context length fit for a model."""
