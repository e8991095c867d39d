"""What the user names in a pipeline, each a frozen dataclass of parameters that knows its steps."""
