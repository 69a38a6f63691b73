"""Measurements that end up in the documentation; not part of the tests."""
