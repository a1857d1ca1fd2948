"""The server: one chat over five transports from one asyncio loop."""

VERSION = "1.0.0"
