"""The running server: its API key, its watchdog, its state and its log."""
