"""A run asked from another process of the same user: a line of JSON and one back, over a Unix socket."""
