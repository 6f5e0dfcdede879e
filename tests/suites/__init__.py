"""The released test suites of the plain clients, run through netjail's: ``python -m tests.suites [CLIENT ...]``."""
