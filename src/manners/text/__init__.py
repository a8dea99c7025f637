"""Text to tokens and back: chat templates, prompts and completions."""
