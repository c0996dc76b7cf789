"""The real parts behind the ports: one technology a module, no rules."""
