"""Pages and cards that people read: offline, no script."""
