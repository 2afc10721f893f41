"""Linear recurrences as one torch operator with several engines: what the fast engines of linear memories
share."""
