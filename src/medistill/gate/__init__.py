"""The gate that a student must pass before the registry takes it: facts, and rules on them."""
