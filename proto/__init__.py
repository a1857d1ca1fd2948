"""What crosses the wire: words (plain values) and codecs (bytes), shared by server and client."""
