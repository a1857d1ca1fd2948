"""The server: one chat over five transports from one asyncio loop."""
