"""What a student must hold before the registry takes it: facts, and rules on them."""
