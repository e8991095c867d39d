"""Conformance suites that ship with the package, for stages and engines written elsewhere."""
