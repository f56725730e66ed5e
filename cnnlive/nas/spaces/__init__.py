"""Published search spaces, each its own file."""
