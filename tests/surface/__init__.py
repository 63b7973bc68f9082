"""What of the wire is served, field by field, and the tests that show it: docs/wire.md is made here."""
