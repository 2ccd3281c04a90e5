"""A finished run, asked by anybody: in a terminal, over HTTP, in a replica of Ray Serve."""
