"""The page of command lines, made of the parsers themselves."""
