"""manners: from people's judgements of a model's answers to a model that behaves better."""

__version__ = "0.1.0"
