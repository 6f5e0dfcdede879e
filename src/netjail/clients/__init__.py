"""One module for each client library. They never know each other; each imports its library plainly."""
