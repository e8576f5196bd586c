"""The model's directory: its content, the download, the embedded model."""
