"""The terminal client: one prompt, five transports."""
