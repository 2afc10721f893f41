"""Linear recurrences as one torch operator with several engines: what the fast backends of linear memories
share."""
