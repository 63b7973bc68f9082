"""Bad input, thousands of times: `python -m tests.fuzz`."""
