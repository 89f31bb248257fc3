"""The database: tables, schema versions, SQLite and PostgreSQL."""
