"""Azure AI Foundry hosted agents, anywhere."""

__version__ = "0.1.0"
