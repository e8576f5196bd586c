"""RAGFlow: what it needs from the server, and the server's registration there."""
