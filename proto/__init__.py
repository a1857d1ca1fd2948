"""What crosses the wire: words (plain values) and codecs (bytes), shared by server and client."""

VERSION = "1.0.0"  # of the whole program
