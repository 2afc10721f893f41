"""The oracle against original implementations, so that definition and backends cannot be wrong in company."""
