"""The only layer that does work: workers, engines, the journal, publishing."""
