"""Run control from another process of the same user: JSON requests and replies over a Unix socket."""
